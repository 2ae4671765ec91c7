"""The tests that do not belong to the default tier.

`QUICK` lists files that together take less than a minute: `pytest -m quick`. `SLOW` lists tests of which only the named
cases run by default, each given by the beginning of its id; the others run with `pytest -m slow`. Every slow case has a
sibling in the default tier that fails if the code is wrong; the slow cases add networks, numbers of devices or real
processes.
"""

QUICK = {
    "test_archives", "test_checkpoint", "test_data", "test_detection", "test_files", "test_fit_names",
    "test_flow", "test_folders", "test_layering", "test_listing", "test_logs", "test_losses", "test_photos",
    "test_protocol", "test_sources", "test_terminal", "test_tiers", "test_untrusted_checkpoints",
    "test_workdir",
}  # fmt: skip

SMALL = ("lenet5", "mlp", "tutorial", "plain", "squeezenet1_1", "seresnet20")

SLOW = {
    # networks
    "test_models::test_logits_features_gradients_and_dropout": SMALL,
    "test_models::test_options": ("squeezenet1_1", "resnet18", "cbam_resnet20", "vit_tiny"),
    "test_models::test_parameter_count": (
        *SMALL, "cnn", "alexnet", "vgg11-", "resnet18-", "resnet50-", "speednet", "vit_tiny", "mobilenet_v3_small",
    ),
    "test_models::test_pooled_models_take_any_size_from_the_smallest_on": ("cnn", "resnet20", "squeezenet1_1"),
    "test_models::test_wrong_images_are_refused": (
        "channels-mobilenet_v1", "rank-resnet18", "channels-lenet5", "rank-vit",
    ),
    "test_optim::test_decay_touches_the_kernels_of_every_network": (
        *SMALL, "cnn", "resnet18", "vit_tiny", "cct_2", "mobilenet_v3_small", "convnext_tiny",
    ),
    "test_precision::test_one_step_in_bfloat16_is_close_to_float32": ("mlp", "tutorial"),
    "test_precision::test_only_what_lies_between_is_bfloat16": ("cnn", "resnet", "mlp"),
    # devices and strategies
    "test_parallel::test_20_steps_agree": ("sharded-8-sgd", "pmap-8-sgd", "sharded-3-adam"),
    "test_parallel::test_20_steps_agree_with_dropout_and_shift": ("sharded-8",),
    "test_parallel::test_evaluation_is_exact": ("64-sharded-8", "64-pmap-3", "1-jit-1", "1000-jit-1"),
    "test_parallel::test_cutting_dispatches_differently_changes_no_bit": ("jit-1", "pmap-8"),
    "test_parallel::test_parameters_in_parts_agree": (),
    "test_precision::test_devices_agree": (),
    "test_precision::test_accumulation_goes_with_norm_and_remat": (),
    "test_precision::test_accumulation_goes_with_bfloat16": (),
    "test_precision::test_remat_takes_less_memory": (),
    "test_seams::test_adversarial_training": (),
    "test_robust::test_group_dro_is_the_same_everywhere": (),
    "test_robust::test_the_worst_group_wins_over_the_mean": (),
    "test_metrics_devices::test_the_same_on_any_devices_in_any_batches": ("sharded-8",),
    "test_numbers::test_skip": ("jit-1",),
    # cases of one kind
    "test_metrics_parity::test_200_cases_equal_scikit_learn": (
        "roc_auc, classes", "scores, classes", "confusion", "matthews", "brier of two", "cohen_kappa",
        "pr_auc, classes",
    ),
    "test_metrics::test_classification_report_equals_sklearn_in_200_cases": ("classes",),
    "test_ops_pooled::test_it_is_the_two_after_another": ("first layer-1", "3-d-1", "1-d-8"),
    "test_layers::test_batch_norm_gradient_equals_automatic_differentiation": ("shape1-False", "shape2-True"),
    "test_tfds::test_a_record_of_another_kind": ("eps", "no image", "png"),
    "test_tfds::test_shares_of_a_stream_are_the_columns_of_the_whole": ("5-",),
    "test_explain::test_one_logit_is_explained_like_two": ("gradient", "grad_cam", "lrp"),
    "test_benchmarks::test_all_subjects_compute_the_same": ("3-D", "max_pool"),
    "test_benchmarks::test_bad_flags_are_one_line": ("ops-", "mnist-arguments9", "cifar10-arguments11"),
    "test_loop::test_the_length_of_dispatches_changes_no_bit": ("streamed",),
    # whole processes
    "test_runtime::test_programs_are_kept_and_a_damaged_one_is_compiled_again": (),
    "test_runtime::test_a_profile_of_a_run": (),
    "test_studies::test_variants_against_each_other": (),
    "test_benchmarks::test_ops": (),
    "test_experiments::test_binary": (),
    "test_experiments::test_cifar10": (),
    "test_experiments::test_evaluate_is_the_same_on_any_devices_and_batch": (),
    "test_processes::test_bad_input": ("arguments1", "arguments5"),
    "test_disk::test_a_disk_that_becomes_read_only": (),
    "test_kill::test_a_second_interrupt_ends_at_once": (),
}  # fmt: skip


def tier(module, name):
    """Return "quick", "slow" or None for a test: the name of its file, and its name with the id in brackets."""
    test, _, case = name.partition("[")
    kept = SLOW.get(f"{module}::{test}")
    if kept is not None and not any(case.startswith(start) for start in kept):
        return "slow"
    return "quick" if module in QUICK else None
