"""The model, how it is taught epoch by epoch, and what its probabilities are worth; it reads and writes no file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from delay_model_worker.flights import NAMES, NUMBERS

KNOWN = [*NUMBERS, *NAMES]
"""What is known before a flight leaves."""
RARE = 50
"""Values of a name with fewer flights share one column."""


def pipeline(*, penalty: float, seed: int) -> Pipeline:
    """Return the untaught model: numbers filled and scaled, names told apart, then logistic regression."""
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    names = OneHotEncoder(min_frequency=RARE, handle_unknown="infrequent_if_exist", sparse_output=False)
    columns = ColumnTransformer([("numbers", numbers, list(NUMBERS)), ("names", names, list(NAMES))])
    # The step falls with the fourth root of the number of flights seen: curves become smooth, and do not stop.
    learner = SGDClassifier(
        loss="log_loss", alpha=penalty, learning_rate="invscaling", eta0=0.02, power_t=0.25, random_state=seed
    )
    return Pipeline([("columns", columns), ("learner", learner)])


def taught(model: Pipeline, table: pa.Table, *, epochs: int) -> Iterator[int]:
    """Teach a model, and give way after every epoch; yields how many there have been."""
    late = table["late"].to_numpy()
    columns = model.named_steps["columns"].fit_transform(table.select(KNOWN))
    for epoch in range(1, epochs + 1):
        model.named_steps["learner"].partial_fit(columns, late, classes=[False, True])
        yield epoch


def probabilities(model: Pipeline, table: pa.Table) -> np.ndarray:
    """Return how likely each flight is late."""
    return model.predict_proba(table.select(KNOWN))[:, 1]


def loss(late: np.ndarray, probability: np.ndarray) -> float:
    """Return the mean surprise at what happened [nat]."""
    return float(log_loss(late, probability, labels=[False, True]))


def importance(model: Pipeline, table: pa.Table, *, repeats: int, seed: int) -> list[dict[str, Any]]:
    """Return how much worse a model is when a column tells it nothing: its values are shuffled among the flights."""
    random = np.random.default_rng(seed)
    late = table["late"].to_numpy()
    before = loss(late, probabilities(model, table))
    rows = []
    for name in KNOWN:
        place = table.column_names.index(name)
        worse = []
        for _ in range(repeats):
            shuffled = table[name].take(pa.array(random.permutation(table.num_rows)))
            other = table.set_column(place, table.schema.field(name), shuffled)
            worse.append(loss(late, probabilities(model, other)) - before)
        rows.append({"column": name, "importance": float(np.mean(worse)), "spread": float(np.std(worse))})
    return rows


def calibration(late: np.ndarray, probability: np.ndarray, bins: int) -> list[dict[str, Any]]:
    """Return what was said and what happened, in bins of equally many flights, with 95 % intervals of Wilson.

    The interval is that of E. B. Wilson, "Probable inference, the law of
    succession, and statistical inference", 1927.
    """
    order = np.argsort(probability, kind="stable")
    z = 1.959964
    rows = []
    for some in np.array_split(order, bins):
        count, share = len(some), float(late[some].mean())
        middle = (share + z * z / (2 * count)) / (1 + z * z / count)
        half = z / (1 + z * z / count) * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
        rows.append(
            {
                "flights": count,
                "predicted": float(probability[some].mean()),
                "observed": share,
                "low": float(middle - half),
                "high": float(middle + half),
            }
        )
    return rows


def scores(late: np.ndarray, probability: np.ndarray, bins: list[dict[str, Any]]) -> dict[str, float]:
    """Return what probabilities are worth, beside those of knowing nothing but how many flights are late."""
    share = float(late.mean())
    apart = sum(row["flights"] * abs(row["predicted"] - row["observed"]) for row in bins) / len(late)
    return {
        "late_share": share,
        "log_loss": loss(late, probability),
        "log_loss_of_share": loss(late, np.full(len(late), share)),
        "brier": float(brier_score_loss(late, probability)),
        "auc": float(roc_auc_score(late, probability)),
        "calibration_error": float(apart),
    }
