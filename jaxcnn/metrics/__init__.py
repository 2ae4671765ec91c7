"""Metrics: jittable sums that add across batches and devices, and what is computed from them or from all scores on the host.

What counts, in every metric alike:

- **Padding** (`row_mask` is 0) counts nowhere, and may hold NaN.
- **A label that is no class** of the logits, such as -1 or 255 for "unknown", counts nowhere; neither does an answer to several
  labels whose label lies outside 0..1. Whoever wants such labels refused checks them before: `Task.check`.
- **NaN** in an output or a label of a row that counts is no answer, right or wrong: the value is NaN. Areas by class are NaN for the
  classes that it touches. A confusion matrix, whose entries are counts, leaves such a row out, and every score that comes with the
  matrix is NaN. Functions on the host that see all scores refuse NaN with `InputError`.
- **Infinite logits** have their place in the order of the classes. A softmax with a logit of +inf is NaN, and so is what is made of it.
- **Labels of another shape** than the logits say are refused when traced.
"""

from jaxcnn.core.types import Count, Mean
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
from jaxcnn.metrics.intervals import Interval, McNemar, bootstrap_interval, mcnemar, paired_bootstrap, wilson_interval
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

__all__ = [
    "Agreement", "Calibration", "ClassificationReport", "Confusion", "Count", "Histograms", "Interval", "McNemar", "Mean",
    "MultilabelConfusion", "PrecisionRecall", "R2", "Reliability", "RiskCoverage", "Roc", "RootMean", "accuracy", "accuracy_of",
    "agreement", "balanced_accuracy", "binned_scores", "bootstrap_interval", "box_iou", "brier", "calibration",
    "classification_report", "coco_scores", "cohen_kappa", "confusion", "count", "dice", "f1", "iou", "log_loss", "log_odds",
    "mae", "matthews", "mcnemar", "mean", "multilabel_accuracy", "multilabel_confusion", "paired_bootstrap", "pr_auc", "pr_curve",
    "precision", "predicted_class", "psnr", "r2", "recall", "report", "risk_coverage", "rmse", "roc_auc", "roc_curve", "ssim",
    "top_k", "true_class", "wilson_interval",
]  # fmt: skip
