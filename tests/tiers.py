"""The tests that do not belong to the default tier.

`QUICK` lists files that together take less than a minute: `pytest -m quick`. `SLOW` lists tests of which only the named
cases run by default, each given by the beginning of its id, and `WHOLE` lists tests of which no case does; these run
with `pytest -m slow`. What they guard, faster tests of the default tier guard too; the slow ones add networks, numbers
of devices, longer runs or real processes. The default tier takes less than eight minutes on two cores.
"""

QUICK = {
    "test_archives", "test_checkpoint", "test_data", "test_detection", "test_files", "test_fit_names",
    "test_flow", "test_folders", "test_layering", "test_listing", "test_logs", "test_losses", "test_photos",
    "test_protocol", "test_sources", "test_terminal", "test_tiers", "test_untrusted_checkpoints",
    "test_workdir",
}  # fmt: skip

SMALL = ("lenet5", "mlp", "tutorial", "plain", "squeezenet1_1", "seresnet20")

SLOW = {
    "test_ops_pooled::test_few_products_are_one_pass": ("padding",),
    # networks
    "test_models::test_options": ("squeezenet1_1", "resnet18", "cbam_resnet20", "vit_tiny"),
    "test_models::test_parameter_count": (
        *SMALL, "cnn", "alexnet", "vgg11-", "resnet18-", "resnet50-", "speednet", "vit_tiny", "mobilenet_v3_small",
    ),
    "test_models::test_pooled_models_take_any_size_from_the_smallest_on": ("cnn", "resnet20", "squeezenet1_1"),
    "test_models::test_wrong_images_are_refused": (
        "channels-mobilenet_v1", "rank-resnet18", "channels-lenet5", "rank-vit",
    ),
    "test_optim::test_decay_touches_the_kernels_of_every_network": (
        "lenet5", "mlp", "tutorial", "plain", "squeezenet1_1", "seresnet20", "resnet18", "vit_tiny", "cct_2",
        "convnext_tiny",
    ),
    "test_precision::test_only_what_lies_between_is_bfloat16": ("cnn", "resnet", "mlp"),
    # devices and strategies
    "test_numbers::test_skip": ("jit-1",),
    # cases of one kind
    "test_metrics_parity::test_200_cases_equal_scikit_learn": (
        "scores, classes", "confusion", "matthews", "brier of two", "pr_auc, classes",
    ),
    "test_integers::test_a_run_is_exported_in_integers_and_measured": ("inside",),
    "test_prune::test_a_narrower_network_computes_the_same_without_channels_that_are_zero": ("cnn",),
    "test_quantise::test_convolutions_of_networks_read_and_make_what_is_rounded": ("cnn", "speednet"),
    "test_layers::test_batch_norm_gradient_equals_automatic_differentiation": ("shape1-False", "shape2-True"),
    "test_tfds::test_a_record_of_another_kind": ("eps", "no image", "png"),
    "test_explain::test_one_logit_is_explained_like_two": ("grad_cam", "lrp"),
    "test_benchmarks::test_all_subjects_compute_the_same": ("3-D", "max_pool"),
    "test_benchmarks::test_bad_flags_are_one_line": ("ops-", "mnist-arguments9", "cifar10-arguments11"),
    "test_roi_align::test_it_equals_the_definition": ("size0",),
    # of several cases, the fastest
    "test_adapt::test_it_trains_and_is_measured": ("functions",),
    "test_augment_mix::test_labels_of_every_form_are_mixed_alike": ("mixup",),
    "test_augment_mix::test_mixup_labels_match_the_pixels": ("1.0",),
    "test_loop::test_a_retrace_is_an_error": ("streamed",),
    "test_losses::test_extreme_logits_are_finite": ("0.0-0.5", "0.0-2.0", "0.1-"),
    "test_masks::test_global_pooling_equals_the_places_that_count": ("pixels",),
    "test_models::test_logits_features_gradients_and_dropout": ("mlp", "tutorial", "lenet5"),
    "test_dense_weights::test_logits_equal_those_of_torchvision": ("small deeplabv3",),
    "test_fcn::test_logits_have_the_size_of_the_image": ("encoder0", "encoder2"),
    "test_video::test_shapes_and_gradients": ("cnn3d",),
    "test_models::test_zero_init_makes_blocks_the_identity": ("False",),
    "test_onnx::test_small_networks": ("cnn", "lenet5", "tutorial", "resnet20"),
    "test_torch::test_outputs_and_gradients_are_those_of_the_run": ("lenet5]", "plain with", "tutorial", "resnet18 "),
    "test_torch::test_images_are_resized_as_by_the_run": ("shape1-size1-30-bicubic",),
    "test_ops::test_pool_and_gradient_equal_reduce_window": ("avg",),
    "test_ops_derivatives::test_conv": ("3-d",),
    "test_ops_derivatives::test_pool": ("mean-uneven",),
    "test_ops_pooled::test_it_is_the_two_after_another": ("3-d-1",),
    "test_parallel::test_20_steps_agree": ("sharded-8-sgd", "pmap-8-sgd"),
    "test_parallel::test_evaluation_is_exact": ("64-pmap-3", "1000-jit-1"),
    "test_precision::test_one_step_in_bfloat16_is_close_to_float32": ("mlp",),
    "test_processes::test_bad_input": ("arguments1",),
    "test_targets::test_every_form_of_the_same_labels_gives_the_same_numbers": ("multilabel",),
    "test_tfds::test_shares_of_a_stream_are_the_columns_of_the_whole": ("5-array_record",),
    "test_tfds::test_streamed": ("array_record-Indexed",),
    "test_transfer::test_on_eight_devices": ("pmap",),
    "test_continual::test_the_same_on_eight_devices": ("ewc-pmap",),
    "test_damage::test_damage_is_found_and_the_one_before_restored": (
        "bit_flipped-latest", "record_missing-latest", "truncated-older", "half_renamed-older", "missing-latest",
    ),
    "test_continual::test_the_old_outputs_are_distilled_by_hand": ("task",),
    "test_weights::test_logits_and_the_way_back": ("timm vit_tiny_patch16_224",),
    "test_boxes::test_gradients_are_finite_and_right": ("giou",),
    "test_fold::test_predictions_stay": ("resnet20",),
    "test_regression::test_outputs_and_loss_are_in_their_units": ("shape1-1-",),
    "test_augment_fields::test_a_field_is_changed_like_the_image": ("cutmix", "flip", "grayscale", "pad_crop", "shift"),
    "test_metrics_what_counts::test_labels_of_one_logit_in_every_form": (
        "accuracy of one logit-False", "confusion of one logit-True-bool", "brier of one logit-True-uint8",
        "log_loss of one logit-False-bool", "calibration of one logit-True-float32",
        "binned_scores of one logit-False-uint8",
    ),
    "test_metrics_what_counts::test_nan_makes_the_value_nan_and_padding_may_be_nan": (
        "accuracy", "brier of one logit", "log_loss", "confusion of pixels", "multilabel_confusion",
        "binned_scores of several", "r2",
    ),
    "test_metrics_what_counts::test_a_label_that_is_no_class_counts_as_if_its_row_were_padding": (
        "accuracy", "mae", "ssim", "confusion--1", "brier of two--1", "calibration-255", "multilabel_confusion-255",
        "binned_scores of several-255", "log_loss-255",
    ),
    "test_tiles::test_views_undo_themselves": ("options1", "options2", "options4"),
    "test_series_networks::test_padding_changes_nothing": ("tcn",),
    "test_masks::test_batch_norm_equals_the_places_that_count": ("rows", "pixels", "sides of one pixel"),
    "test_tasks::test_padding_is_left_out": ("multilabel-weights1", "softmax-weights1", "sigmoid-None"),
    "test_recurrent::test_values_and_gradients_are_those_of_torch": ("GRU-True", "LSTM-True"),
    "test_recurrent::test_padding_changes_nothing_and_may_be_nan": ("GRU-True", "LSTM-True"),
    "test_ops_derivatives::test_symbolic_sizes": ("b, h, w, 3",),
    "test_axis::test_a_named_axis_gives_the_numbers_of_one_device": ("batch norm-pmap", "batch norm-vmap"),
    "test_embedding::test_vectors_have_length_one": ("triplet", "contrastive"),
    "test_segmentation::test_logits_have_the_size_of_the_image": ("options0", "options1", "options2", "options3"),
    "test_report::test_every_number_equals_scikit_learn": ("1", "2"),
    "test_tfds::test_resident": ("tfrecord",),
    "test_matching::test_the_expected_sample_is_the_mean_of_samples": ("0-", "3-"),
    "test_export_tasks::test_unet_of_odd_sides": ("shape1",),
    "test_self_supervised::test_predictions_refuse_pixels_above_1": ("simsiam",),
    "test_attacks::test_without_a_distance_methods_are_what_they_wrap": ("mart",),
    "test_attacks::test_results_lie_within_the_distance_and_in_0_to_1": ("fgsm", "l2", "square"),
    "test_continual::test_in_the_first_task_nothing_changes": ("ewc", "replay"),
    "test_meant_or_refused_scores::test_average_precision_of_narrow_numbers": ("bfloat16-uint8", "float32-int32"),
}  # fmt: skip

# all cases of tests that take some seconds, whose behaviour faster ones guard too
WHOLE = {
    "test_accelerators": (
        "test_a_row_that_moves_between_devices_is_found", "test_collectives_of_eight_devices",
        "test_each_check_finds_its_mistake", "test_the_program_of_a_training_step_of_resnet50",
    ),
    "test_active": ("test_samples_of_dropout_differ_and_are_probabilities",),
    "test_adapt": ("test_functions_see_what_they_take",),
    "test_anchored": ("test_both_stages_of_faster_rcnn_and_the_way_back",),
    "test_anything": (
        "test_a_generator_resumes_exactly", "test_arrays_sequences_and_generators_train_the_same",
        "test_every_row_of_a_generator_is_measured_once",
    ),
    "test_attacks": (
        "test_attacks_grow_in_the_first_updates", "test_more_steps_restarts_and_gradients_find_more",
        "test_rows_that_the_task_leaves_out_change_no_weight", "test_training_resists_more_than_without",
    ),
    "test_augment_color": ("test_strengths_of_rand_augment_are_drawn",),
    "test_augment_detection": (
        "test_crops_of_images_without_boxes_and_boxes_that_nothing_suits",
        "test_draws_do_not_depend_on_the_spread_of_rows",
    ),
    "test_augment_follow": ("test_rows_that_are_not_chosen_keep_their_boxes",),
    "test_augment_mix": ("test_the_same_under_jit_sharded_and_pmap",),
    "test_average_precision": ("test_it_agrees_with_all_boxes", "test_parts_add_up_on_eight_devices"),
    "test_axis": ("test_members_of_an_ensemble_stand_for_themselves",),
    "test_benchmarks": ("test_a_subject_that_fails_is_left_out", "test_ops"),
    "test_cells": (
        "test_a_path_is_the_network_of_its_operations", "test_only_the_path_gets_a_gradient_and_it_is_drawn_uniformly",
    ),
    "test_chosen": ("test_the_logits_of_a_box", "test_the_logits_of_a_pixel", "test_what_is_no_box"),
    "test_cli": (
        "test_a_run_reads_images_as_it_was_trained", "test_explain_draws_a_picture_per_file",
        "test_fine_tuning_begins_with_a_run", "test_idx_files_and_a_tfds_set_train",
        "test_mistakes_in_reports_name_their_files", "test_resume_goes_on_and_refuses_another_result",
        "test_several_labels_and_numbers_train", "test_the_range_test_finds_a_rate_and_draws_it",
    ),
    "test_compression": (
        "test_a_table_has_what_onnx_runtime_answers_on_all_rows", "test_all_variants_are_trained_and_measured",
    ),
    "test_continual": (
        "test_ewc_holds_the_parameters_that_matter", "test_neutral_weights_change_nothing_in_later_tasks",
        "test_one_anchor_stands_for_the_penalties_of_all_tasks",
    ),
    "test_continual_runs": ("test_a_sequence_and_its_resume",),
    "test_dense_weights": (
        "test_a_network_with_more_branches_is_not_torchvisions",
        "test_weights_are_read_with_and_without_the_auxiliary_head",
    ),
    "test_detection": ("test_200_cases_equal_pycocotools",),
    "test_detection_task": (
        "test_a_step_on_eight_devices_is_that_of_one", "test_an_evaluation_on_eight_devices_is_that_of_one",
        "test_it_learns_rectangles", "test_padding_rows_change_no_number",
    ),
    "test_detectors": ("test_heads_of_the_published_file_and_the_way_back",),
    "test_disk": ("test_a_disk_that_becomes_read_only",),
    "test_distil": (
        "test_features_of_other_widths_are_compared", "test_layers_without_a_form_of_low_rank_are_named",
        "test_low_rank_is_the_best_approximation_and_trains",
    ),
    "test_embedding": (
        "test_a_run_is_loaded_by_its_description", "test_it_learns_and_recall_is_measured",
        "test_prototypes_on_any_devices", "test_strategies_agree",
    ),
    "test_experiments": (
        "test_a_loss_that_is_no_number_stops_the_run", "test_a_stopped_run_resumes_to_the_same_parameters",
        "test_auto_falls_back_and_says_why", "test_binary", "test_cifar10",
        "test_evaluate_is_the_same_on_any_devices_and_batch", "test_limits_are_adapted_and_said",
        "test_load_run_gives_the_tested_model", "test_resume_refuses_another_model_and_other_data",
        "test_the_averaged_weights_are_what_is_tested_and_loaded",
    ),
    "test_explain": (
        "test_integrated_gradients_add_up", "test_layers_that_do_not_exist", "test_relevance_adds_up_in_every_family",
        "test_relevance_of_one_logit_adds_up_for_both_classes",
    ),
    "test_explain_checks": (
        "test_a_strip_shows_the_image_below_the_map_and_the_key", "test_image_processing_equals_numpy",
        "test_images_that_a_unit_likes", "test_one_logit_has_a_map_for_either_class",
        "test_randomisation_goes_down_from_the_head", "test_the_picture",
    ),
    "test_explain_sound": ("test_maps_over_time_and_bands",),
    "test_export": (
        "test_a_program_of_texts_says_which_number_a_word_has", "test_data_that_were_moved_are_named_by_a_flag",
    ),
    "test_export_benchmark": (
        "test_a_run_without_its_data_is_an_error_and_the_next_is_measured",
        "test_runs_and_networks_and_what_other_runtimes_raise",
    ),
    "test_faster_rcnn": (
        "test_a_row_that_is_padding_changes_no_gradient", "test_it_is_a_task", "test_it_learns_a_few_rectangles",
        "test_one_device_equals_eight",
        "test_padding_changes_nothing_and_images_without_boxes_teach_what_is_background", "test_the_loss_falls",
        "test_true_boxes_join_the_sample_and_a_quarter_of_it_are_objects",
    ),
    "test_fcn": (
        "test_branches_by_hand", "test_dilated_features_are_those_of_the_strides_and_more",
        "test_it_learns_with_the_auxiliary_loss_and_keeps_padding_out",
    ),
    "test_fcos": ("test_a_prediction_is_one_program_whose_answer_stays", "test_places_in_a_crowd_count_neither_way"),
    "test_federated": (
        "test_clients_of_poisson_sampling_are_hidden", "test_clients_taken_apart_leave_no_network",
        "test_rounds_under_masks_are_those_without",
        "test_updates_that_are_not_full_count_no_row_twice",
    ),
    "test_federated_runs": ("test_hidden_clients_are_drawn_and_accounted",),
    "test_fetch": ("test_the_hub",),
    "test_fingerprint": (
        "test_it_is_the_same_for_a_task_that_is_made_again_whatever_runs_it", "test_it_is_the_same_in_another_process",
    ),
    "test_forecasting": (
        "test_forecasts_follow_the_units_of_the_series", "test_gradients_are_finite_with_missing_values_and_padding",
        "test_impossible_rows_are_refused_or_nan", "test_metrics_add_and_count_observed_steps_only",
    ),
    "test_fpn": ("test_levels_of_several_networks",),
    "test_fusion": (
        "test_absent_inputs_do_not_reach_the_statistics_or_the_gradient", "test_one_vector_per_row",
        "test_the_same_on_eight_devices",
    ),
    "test_group_norm": ("test_it_stands_in_for_batch_norm", "test_masked_places_have_no_effect_whatever_they_hold"),
    "test_harness": (
        "test_a_headline_that_is_not_measured_is_said", "test_a_recipe_of_a_regression",
        "test_a_task_of_ones_own_is_loaded_in_another_process",
        "test_average_weights_are_loaded_whatever_the_build_says", "test_it_goes_on_where_it_was_cut_off",
        "test_the_average_of_a_state_is_what_is_loaded", "test_the_screen_and_the_result_show_the_headline",
        "test_validations_come_as_often_as_is_said",
    ),
    "test_imagenet": (
        "test_a_run_on_photos_resumes_predicts_and_loads_into_torchvision_s_names",
        "test_the_augmentation_of_a3_mixes_and_keeps_the_shape",
    ),
    "test_integers": ("test_the_file_computes_in_integers_what_the_simulation_says",),
    "test_intervals": ("test_bootstrap_holds_as_often_as_it_says",),
    "test_journal": ("test_a_trial_whose_process_died_twice_has_failed",),
    "test_kill": ("test_a_second_interrupt_ends_at_once",),
    "test_label": ("test_a_run_answers_what_it_is_sure_of", "test_images_on_which_dropout_disagrees_come_first"),
    "test_layers": ("test_a_recomputed_block_drops_the_same_units_and_changes_the_same_statistics",),
    "test_loop": (
        "test_a_step_that_forgets_its_counter", "test_batches_that_do_not_divide_are_padded",
        "test_earlier_rows_come_again_after_a_resume", "test_early_stopping_counts_over_a_resume",
        "test_resume_on_other_devices", "test_saves_by_time_go_on_to_the_same_run",
        "test_stop_between_validations_and_resume", "test_stopped_in_a_validation_that_is_then_made",
        "test_the_callers_state_survives", "test_the_learning_rate_in_force_is_logged_and_survives_a_resume",
        "test_the_length_of_dispatches_changes_no_bit",
    ),
    "test_losses": ("test_leading_axes_and_low_precision",),
    "test_masks": (
        "test_attention_over_channels_leaves_masked_places_out", "test_batch_norm_gradient_of_masked_places",
        "test_where_nothing_counts_the_running_statistics_stay",
    ),
    "test_matching": (
        "test_a_true_box_that_meets_no_candidate_claims_none",
        "test_crowds_and_padding_match_nothing_and_hide_the_background", "test_rows_that_are_padding_have_no_boxes",
        "test_ties_are_all_claimed_and_keep_the_box_that_they_overlap_most",
    ),
    "test_metrics": (
        "test_classification_report_equals_sklearn_in_200_cases", "test_one_logit_decides_between_two_classes",
    ),
    "test_metrics_devices": ("test_the_same_on_any_devices_in_any_batches",),
    "test_metrics_what_counts": (
        "test_a_row_without_prediction_is_in_no_cell_of_the_matrix",
        "test_counts_and_confidences_beyond_float32_in_one_dispatch", "test_no_metric_overwrites_another",
    ),
    "test_models": (
        "test_a_residual_block_by_hand", "test_bytes_and_floats_give_the_same", "test_resolution_of_each_stage",
        "test_whitening_makes_patches_white",
    ),
    "test_models_derivatives": (
        "test_a_network_of_any_height_and_width", "test_devices_with_their_checks", "test_export_with_a_symbolic_batch",
        "test_forward_mode_and_hessian_vector_products",
    ),
    "test_numbers": ("test_rollback_with_and_without_a_checkpoint", "test_the_norm_of_the_gradient_is_logged"),
    "test_one_class": ("test_strips_are_marked_and_nothing_else_changes", "test_strips_like_scratches"),
    "test_ops": (
        "test_conv_and_gradients_equal_numpy", "test_conv_check_grads", "test_conv_keeps_bfloat16",
        "test_conv_transpose_and_gradients_are_the_transpose_of_conv", "test_large_volumes_become_slabs",
        "test_second_derivative_equals_native",
    ),
    "test_ops_derivatives": (
        "test_a_gradient_of_a_symbolic_batch", "test_conv_max_pool", "test_conv_transpose",
        "test_pmap_checkpoint_and_donation", "test_recompute", "test_shard_map_with_its_checks",
    ),
    "test_page": ("test_other_tasks_are_refused",),
    "test_parallel": (
        "test_20_steps_agree_with_dropout_and_shift",
        "test_a_state_is_donated_and_the_variables_of_an_evaluation_are_not",
        "test_cutting_dispatches_differently_changes_no_bit", "test_parameters_in_parts_agree",
        "test_uneven_weights_across_devices",
    ),
    "test_pixel_experiments": ("test_a_run",),
    "test_precision": (
        "test_accumulation_goes_with_bfloat16", "test_accumulation_goes_with_norm_and_remat", "test_devices_agree",
        "test_remat_changes_no_gradient", "test_remat_takes_less_memory",
    ),
    "test_private": (
        "test_dropout_is_that_of_the_batch", "test_noise_has_its_deviation_and_another_draw_in_each_step",
        "test_rows_of_convolutions_are_clipped_alike_on_eight_devices",
    ),
    "test_processes": ("test_when_one_dies_the_others_end_and_the_run_goes_on",),
    "test_quantise": (
        "test_a_kernel_has_a_step_for_each_channel_which_norms_do_not_change", "test_grids_that_cannot_be_chosen",
        "test_training_with_roundings_learns_and_is_what_is_predicted",
    ),
    "test_readme": ("test_errands_run",),
    "test_recurrent": ("test_derivatives_forwards_and_backwards_agree",),
    "test_report": (
        "test_a_planted_bias_is_found", "test_curves_are_named_for_how_many_there_are",
        "test_many_classes_and_strange_names_stay_small_and_safe", "test_runs_side_by_side",
        "test_the_page_is_whole_and_readable_without_sight_or_colour", "test_three_trained_runs_give_three_verdicts",
    ),
    "test_robust": (
        "test_group_dro_is_the_same_everywhere", "test_shares_and_loss_of_group_dro",
        "test_the_gradient_is_that_of_the_groups_in_their_shares", "test_the_loss_is_the_mean_weighted_by_the_column",
        "test_the_worst_group_wins_over_the_mean",
    ),
    "test_robust_runs": ("test_corruptions_of_a_run", "test_membership"),
    "test_roi_align": ("test_derivatives",),
    "test_running_stats": ("test_validation_follows_training_from_the_start",),
    "test_runs": (
        "test_a_report_on_other_data_says_so", "test_classes_are_matched_by_name",
        "test_metrics_that_are_no_numbers_are_reported", "test_other_data_are_measured_and_named",
        "test_ten_thousand_classes_make_a_small_page", "test_tiny_values_and_a_run_of_one_epoch_are_drawn",
    ),
    "test_runtime": (
        "test_a_profile_of_a_run", "test_importing_the_experiments_sets_nothing",
        "test_importing_the_library_loads_nothing_that_waits", "test_large_buffers_are_kept",
        "test_programs_are_kept_and_a_damaged_one_is_compiled_again",
    ),
    "test_scaffold": ("test_the_first_round_is_that_of_fedavg",),
    "test_seams": (
        "test_a_per_pixel_task", "test_accumulation", "test_adversarial_training", "test_two_players",
        "test_wrappers_compose",
    ),
    "test_search": (
        "test_a_file_that_was_replaced_is_read_again", "test_an_index_is_made_extended_and_searched",
        "test_duplicates_in_a_folder_need_no_index",
    ),
    "test_segmentation": (
        "test_every_form_of_the_labels_gives_the_same", "test_it_learns_squares",
        "test_the_loss_is_the_mean_over_the_pixels_that_count",
    ),
    "test_segmentation_losses": ("test_a_perfect_answer_has_a_finite_slope", "test_masked_pixels_may_be_anything"),
    "test_segmentation_metrics": ("test_overlap_is_that_of_sets",),
    "test_self_supervised": ("test_it_learns_to_tell_rows_apart_and_its_encoder_begins_a_classifier",),
    "test_sequences": (
        "test_a_beam_search_adds_up_paths_where_the_best_path_misleads",
        "test_columns_after_the_end_of_a_series_are_blank", "test_metrics_by_hand_and_without_padding",
        "test_padding_rows_change_nothing",
    ),
    "test_series_networks": (
        "test_derivatives_agree_in_both_modes_and_reach_every_parameter", "test_impossible_lengths_are_nan",
        "test_padding_does_not_count_in_the_statistics_of_norms",
    ),
    "test_serve": (
        "test_a_mask_is_that_of_predict", "test_a_reader_of_lines_gives_symbols",
        "test_a_run_that_is_still_copied_is_served_once_it_is_whole", "test_boxes_are_those_of_predict",
        "test_numbers_and_several_labels",
    ),
    "test_sound_models": (
        "test_each_parameter_has_a_gradient", "test_padding_changes_nothing_in_training",
        "test_parts_of_a_batch_are_masked_and_normalised_like_the_whole",
    ),
    "test_spectrogram": ("test_power_and_magnitude", "test_steps_longer_than_a_frame"),
    "test_ssd": (
        "test_a_row_that_is_padding_changes_no_gradient", "test_it_learns_a_few_rectangles",
        "test_one_device_equals_eight", "test_the_loss_falls",
    ),
    "test_studies": ("test_variants_against_each_other",),
    "test_study": (
        "test_a_sequence_of_sobol_goes_on_after_a_failure", "test_a_stop_leaves_a_trial_that_is_tried_again",
        "test_a_study_ends_when_the_last_trial_elsewhere_does", "test_a_trial_that_cannot_be_trained_fails_alone",
        "test_the_best_rate_is_found_and_the_study_goes_on",
    ),
    "test_summary": ("test_receptive_fields_of_residual_networks",),
    "test_surroundings": (
        "test_a_working_directory_whose_name_is_not_utf8",
        "test_names_of_any_bytes_in_ascii_with_output_on_a_full_disk_and_no_home",
    ),
    "test_targets": (
        "test_ignored_rows_count_nowhere", "test_ignored_rows_under_jit_sharded_and_pmap",
        "test_public_losses_do_not_take_a_label_for_another", "test_what_is_ignored_need_not_fit_the_dtype",
    ),
    "test_tasks": (
        "test_binary_cross_entropy_of_classes", "test_extreme_logits_are_finite",
        "test_logit_adjustment_is_in_the_loss_alone", "test_model_state_changes_in_training_alone",
        "test_padding_does_not_reach_the_statistics",
    ),
    "test_text_cnn": (
        "test_the_word_that_decides_has_the_largest_weight", "test_trained_vectors_replace_those_of_their_words",
        "test_which_vectors_learn",
    ),
    "test_texts": ("test_a_text_of_a_million_characters",),
    "test_tfds": ("test_array_record_imports_no_tensorflow",),
    "test_tiles": ("test_a_u_net_in_tiles", "test_views_of_a_run_are_those_of_its_task"),
    "test_train": (
        "test_any_optax_transform_will_do", "test_augmented_step_sees_the_changed_batch",
        "test_gradient_equals_finite_differences", "test_overfits_32_rows", "test_padding_changes_nothing",
    ),
    "test_train_boxes": (
        "test_a_box_is_explained", "test_a_run_has_the_scores_of_detection",
        "test_evaluate_on_its_own_and_on_other_rows", "test_predictions_are_lines_and_a_table",
        "test_the_report_shows_failures_and_the_worst_images",
    ),
    "test_train_masks": (
        "test_a_pixel_is_explained", "test_data_shows_the_shares_of_the_classes", "test_predictions_as_a_table",
        "test_the_report_shows_classes_and_the_worst_images",
    ),
    "test_train_signals": (
        "test_a_server_answers_sounds_as_predict_does", "test_a_sound_of_any_length_rate_and_form_is_predicted",
        "test_a_stopped_run_goes_on_to_the_same_weights", "test_labels_of_a_table_without_a_header_stay_labels",
        "test_other_series_are_measured", "test_other_sounds_are_measured", "test_raw_samples_on_eight_devices",
        "test_reports_show_and_play", "test_series_are_explained", "test_series_are_predicted_with_or_without_labels",
        "test_sounds_are_explained_over_time_and_frequency",
    ),
    "test_train_texts": (
        "test_a_changed_training_text_changes_no_word_of_the_run", "test_the_report_shows_texts_with_their_words",
        "test_words_are_explained",
    ),
    "test_train_volumes": (
        "test_a_run_and_its_measurements", "test_a_volume_is_explained_in_python", "test_the_report_has_slices",
    ),
    "test_transfer": (
        "test_every_parameter_of_the_zoo_is_in_one_group", "test_gradual_unfreezing_resumes_exactly",
        "test_kept_statistics_are_used_and_stay", "test_the_head_on_cached_features_is_that_of_the_frozen_network",
    ),
    "test_transfer_runs": (
        "test_a_head_on_cached_features_leaves_the_whole_network", "test_a_head_resumes_exactly",
        "test_gradual_with_decay_and_a_frozen_layer", "test_pixel_dropout_brings_training_pixels_to_the_mean",
        "test_scratch_has_the_network_of_the_weights_and_new_values", "test_the_same_head_without_the_cache",
        "test_weights_from_a_file",
    ),
    "test_updates": (
        "test_a_body_that_raises_loses_nothing", "test_a_finished_run_gives_its_state",
        "test_a_loop_that_is_left_goes_on_where_it_was", "test_fit_prints_a_line_per_validation",
        "test_history_keeps_arrays_over_a_resume", "test_rows_that_cannot_be_read_lose_nothing",
    ),
    "test_video": (
        "test_a_description_builds_them", "test_a_length_out_of_range_is_refused_or_nan",
        "test_c3d_with_hidden_layers_ignores_what_lies_behind_the_length",
        "test_padding_frames_and_rows_change_nothing", "test_summaries_count_what_there_is",
    ),
    "test_weights": (
        "test_colour_images_through_a_network_for_gray_ones", "test_gray_images_give_what_they_would_in_colour",
        "test_gray_images_where_a_norm_follows", "test_positions_are_resampled_for_another_size",
        "test_published_names_of_densenet",
    ),
    "test_winner": ("test_a_run_that_was_stopped_is_resumed",),
    "test_workdir": ("test_another_process_is_refused_until_the_first_is_gone", "test_reading_says_nothing_of_its_own"),
}  # fmt: skip


def tier(module, name):
    """Return "quick", "slow" or None for a test: the name of its file, and its name with the id in brackets."""
    test, _, case = name.partition("[")
    kept = () if test in WHOLE.get(module, ()) else SLOW.get(f"{module}::{test}")
    if kept is not None and not any(case.startswith(start) for start in kept):
        return "slow"
    return "quick" if module in QUICK else None
