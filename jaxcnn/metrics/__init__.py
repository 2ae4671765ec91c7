"""Metrics: jittable sums that add across batches and devices, and scores computed on the host from sums or outputs.

The same rules hold for every metric:

- **Padding** (`row_mask` is 0) does not count, and may hold NaN.
- **A label that is not a class** of the logits, such as -1 or 255 for "unknown", does not count; neither does an answer
  to a multi-label question whose label lies outside 0..1. `Task.check` refuses such labels beforehand.
- **NaN** in an output or a label of a row that counts makes the value NaN: it is neither right nor wrong. Areas by
  class are NaN for the classes it affects. A confusion matrix holds counts, so it leaves such a row out, and the scores
  computed from the matrix are NaN. Functions on the host that take all scores refuse NaN with `InputError`.
- **Infinite logits** sort as usual among the classes. A softmax over a logit of +inf is NaN, and so are scores that
  need it.
- **Labels whose shape does not fit the logits** are refused when traced.
"""

from jaxcnn.core.types import Count, Mean
from jaxcnn.metrics.average_precision import AveragePrecision, average_precision
from jaxcnn.metrics.corruption import CorruptionError, mean_corruption_error
from jaxcnn.metrics.curves import (
    PrecisionRecall,
    RiskCoverage,
    Roc,
    pr_auc,
    pr_curve,
    risk_coverage,
    roc_auc,
    roc_curve,
)
from jaxcnn.metrics.detection import box_iou, coco_scores
from jaxcnn.metrics.embedding import PairCosines, pair_cosines
from jaxcnn.metrics.forecast import forecast_metrics, naive_error, rolling_origin, seasonal_naive
from jaxcnn.metrics.intervals import (
    Interval,
    McNemar,
    bootstrap_interval,
    least_share,
    mcnemar,
    paired_bootstrap,
    wilson_interval,
)
from jaxcnn.metrics.probabilities import (
    Calibration,
    Histograms,
    Reliability,
    binned_scores,
    brier,
    calibration,
    log_loss,
    log_odds,
)
from jaxcnn.metrics.regression import R2, Agreement, RootMean, agreement, mae, psnr, r2, rmse, ssim
from jaxcnn.metrics.scores import (
    accuracy_of,
    balanced_accuracy,
    cohen_kappa,
    dice,
    f1,
    iou,
    matthews,
    precision,
    recall,
    report,
)
from jaxcnn.metrics.segmentation import Overlap, components, hausdorff95, overlap, rand_fscore
from jaxcnn.metrics.sequences import character_error_rate, edit_distance, exact_match
from jaxcnn.metrics.sums import (
    Confusion,
    MultilabelConfusion,
    accuracy,
    confusion,
    count,
    mean,
    multilabel_accuracy,
    multilabel_confusion,
    predicted_class,
    top_k,
    true_class,
)
from jaxcnn.metrics.table import ClassificationReport, classification_report
from jaxcnn.metrics.tracking import TrackScores, track_scores
from jaxcnn.metrics.verification import (
    Verification,
    equal_error_rate,
    identification,
    pair_scores,
    retrieval,
    tar_at_far,
    verification,
)

__all__ = [
    "accuracy", "accuracy_of", "Agreement", "agreement", "average_precision", "AveragePrecision", "balanced_accuracy",
    "binned_scores", "bootstrap_interval", "box_iou", "brier", "Calibration", "calibration", "character_error_rate",
    "classification_report", "ClassificationReport", "coco_scores", "cohen_kappa", "components", "Confusion",
    "confusion", "CorruptionError", "Count", "count", "dice", "edit_distance", "equal_error_rate", "exact_match", "f1",
    "forecast_metrics", "hausdorff95", "Histograms", "identification", "Interval", "iou", "least_share", "log_loss",
    "log_odds", "mae", "matthews", "McNemar", "mcnemar", "Mean", "mean", "mean_corruption_error", "multilabel_accuracy",
    "multilabel_confusion", "MultilabelConfusion", "naive_error", "Overlap", "overlap", "pair_cosines", "pair_scores",
    "PairCosines", "paired_bootstrap", "pr_auc", "pr_curve", "precision", "PrecisionRecall", "predicted_class", "psnr",
    "R2", "r2", "rand_fscore", "recall", "Reliability", "report", "retrieval", "risk_coverage", "RiskCoverage", "rmse",
    "Roc", "roc_auc", "roc_curve", "rolling_origin", "RootMean", "seasonal_naive", "ssim", "tar_at_far", "top_k",
    "track_scores", "TrackScores", "true_class", "Verification", "verification", "wilson_interval",
]  # fmt: skip
