"""Requests for one dataset with a price, as the suites beside this one make them."""

TEXTS = ("Tumour panels", "CC-BY-4.0", ["DUO:0000007", "DUO:0000021"], "Clinic MN")
PRICE, RICH, HOUR = 250, 1000, 3600
STUDY = {"purposes": ["DUO:0000007"], "acknowledged": ["DUO:0000021"]}


async def ask(world, dataset, who=None, **more):
    said = {"days": 30, "units": None, "max_price": PRICE, **STUDY, **more}
    deals = (who or world.reader).market.deals
    return (await deals.requests.make(dataset, **said))["request"]


def decide(world):
    return world.owner.market.deals.decisions


def rows(world):
    return world.reader.market.deals.requests


def later(world, seconds):
    world.now += seconds


async def status(world, number):
    return (await rows(world).row(number))["status"]
