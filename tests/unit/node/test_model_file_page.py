"""Every model file that docs/model-file.md shows is one, and every key there is in it."""

import re
from pathlib import Path

import msgspec
import pytest

from ee.hyper import TrainHyper
from ee.recipe import StockSpec, is_stock
from ee.spec import ModelSpec
from node.compute import table
from protocol.course import policy
from protocol.runs import Plan, parse_plan

PAGE = (Path(__file__).parents[3] / "docs" / "model-file.md").read_text()
SHOWN = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("text", SHOWN, ids=lambda text: text[:30])
def test_a_model_file_on_the_page_is_taken(text):
    plan = parse_plan(text.encode())
    TrainHyper.from_dict(plan.train)
    policy(1, plan)
    if is_stock(plan.spec):
        StockSpec.from_dict(plan.spec)
        table.class_task(plan.task)
    else:
        ModelSpec.from_dict(plan.spec)
        table.task(plan.task)


def test_the_page_shows_each_kind_and_names_every_key():
    kinds = [is_stock(parse_plan(text.encode()).spec) for text in SHOWN]
    assert sorted(kinds) == [False, True, True]
    for kind in (Plan, StockSpec, TrainHyper, table.ClassTask):
        for field in msgspec.structs.fields(kind):
            assert f"`{field.encode_name}`" in PAGE, field.encode_name
