"""Which code a model's specification asks for: columns of a table, or a stock model.

The one place that knows both kinds.  Stock classes take seconds to import and no table run
needs them, so they are imported here when a specification names one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ee.recipe import StockSpec, is_stock
from ee.spec import ModelSpec
from node.compute.models import Model
from node.compute.releasing import Released
from node.compute.table_model import TableModel
from node.compute.table_release import TableRelease


def model_of(params: Mapping[str, Any], task: Mapping[str, Any] | None = None) -> Model:
    """The model of `params["spec"]`; a stock base lies under `params["models"]`."""
    spec = params["spec"]
    if is_stock(spec):
        from node.compute.stock import Stock

        return Stock(StockSpec.from_dict(spec), task, Path(params["models"]))
    return TableModel(ModelSpec.from_dict(spec), task)


def released(params: Mapping[str, Any]) -> Released:
    """The state `params["root"]` in `folder`; a stock base lies under `models`."""
    spec, folder, root = params["spec"], Path(params["folder"]), params["root"]
    if is_stock(spec):
        from node.compute.stock_release import StockRelease

        models = Path(params["models"])
        return StockRelease(StockSpec.from_dict(spec), folder, root, models)
    return TableRelease(ModelSpec.from_dict(spec), folder, root)
