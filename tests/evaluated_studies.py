"""An evaluated study with its tables, and changes to its predictions."""

import json
from typing import Any

import pandas as pd
from lowmag import evaluate
from synthetic_predictions import make_reading


class Results:
    """One evaluated study: its folder and its tables as a reader of the files gets them."""

    def __init__(self, folder, study, *, reading=True):
        self.folder, self.study = folder, study
        make_reading(folder / "reading.tsv", study, slides=3 if reading else 0)
        evaluate.write_tables(folder / "predictions", folder / "reading.tsv", folder / "evaluation", study)
        self.metrics = self.table("metrics").astype({"seed": str})
        self.comparisons = self.table("comparisons")
        self.cost = self.table("cost")
        self.summary = json.loads((folder / "evaluation/summary.json").read_text())

    def table(self, name) -> Any:
        return pd.read_csv(self.folder / f"evaluation/{name}.tsv", sep="\t")

    def metric(self, **wanted):
        return select(self.metrics, **wanted)


def select(table: Any, **wanted) -> Any:
    for column, value in wanted.items():
        table = table[table[column] == value]
    return table


def tiles_of(folder, run="teacher/seed0"):
    return folder / "predictions" / run / "tiles.parquet"


def rewrite(path, change):
    frame = pd.read_parquet(path)
    change(frame).to_parquet(path, index=False)


def evaluated(folder, study):
    evaluate.write_tables(folder / "predictions", None, folder / "evaluation", study)
