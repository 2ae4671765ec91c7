"""Metrics: jittable sums that add across batches and devices, and what is computed from them or from all scores on the host."""

from jaxcnn.metrics.curves import PrecisionRecall, RiskCoverage, Roc, pr_auc, pr_curve, risk_coverage, roc_auc, roc_curve
from jaxcnn.metrics.detection import box_iou, coco_scores
from jaxcnn.metrics.intervals import Interval, McNemar, bootstrap_interval, mcnemar, paired_bootstrap, wilson_interval
from jaxcnn.metrics.probabilities import Calibration, Histograms, Reliability, binned_scores, brier, calibration, log_odds
from jaxcnn.metrics.regression import R2, RootMean, mae, psnr, r2, rmse, ssim
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
from jaxcnn.types import Count, Mean

__all__ = [
    "Calibration", "ClassificationReport", "Confusion", "Count", "Histograms", "Interval", "McNemar", "Mean", "MultilabelConfusion",
    "PrecisionRecall", "R2", "Reliability", "RiskCoverage", "Roc", "RootMean", "accuracy", "accuracy_of", "balanced_accuracy",
    "binned_scores", "bootstrap_interval", "box_iou", "brier", "calibration", "classification_report", "coco_scores", "cohen_kappa",
    "confusion", "count", "dice", "f1", "iou", "log_odds", "mae", "matthews", "mcnemar", "mean", "multilabel_accuracy",
    "multilabel_confusion", "paired_bootstrap", "pr_auc", "pr_curve", "precision", "predicted_class", "psnr", "r2", "recall",
    "report", "risk_coverage", "rmse", "roc_auc", "roc_curve", "ssim", "top_k", "true_class", "wilson_interval",
]  # fmt: skip
