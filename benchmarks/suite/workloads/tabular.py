"""A table: scikit-learn's breast cancer, 30 measurements of a tumor on different scales."""

from sklearn.datasets import load_breast_cancer

from benchmarks.shared import networks
from benchmarks.suite.task import Task
from benchmarks.suite.workloads.splits import split


def breast_cancer() -> Task:
    """All measurements over the largest of all. Some are a thousand times larger than others."""
    table, labels = load_breast_cancer(return_X_y=True)
    splits = split(table / table.max(), labels, 0.5)
    return Task(networks.Perceptron(classes=2), splits, ("malignant", "benign"), 32, 1000)


WORKLOADS = {"breast cancer": breast_cancer}
