"""Questions to data that do not move."""

from node.rpc.method import Method
from node.rpc.params import queries as params
from node.rpc.params.base import Nothing
from node.rpc.results import queries as results

METHODS = (
    Method(
        "queries.allow",
        params.QueriesAllow,
        results.QueryAllowed,
        "Let researchers ask a dataset of this node, within a privacy budget that is for ever: "
        "a second call changes the bounds, not what is spent.",
    ),
    Method(
        "queries.stop",
        params.QueriesStop,
        results.QueryPolicy,
        "Answer nothing about a dataset any more. What was charged is remembered.",
    ),
    Method(
        "queries.list",
        Nothing,
        results.QueriesList,
        "Datasets of this node that answer queries, and what is left of their budgets; questions "
        "that this node has begun and that have no result yet.",
    ),
    Method(
        "queries.ask",
        params.QueriesAsk,
        results.QueriesAsk,
        "Ask several datasets one of five built-in questions. Each is answered where it lies, in "
        "a sandbox, with noise, against its budget; several answers are masked so that only "
        "their sum can be read. Of four and more some may drop out on the way. Every attestation "
        "is verified.",
    ),
    Method(
        "queries.evaluate",
        params.QueriesEvaluate,
        results.QueriesAsk,
        "Try a model where the data lie: weights, or the state a run came to, at its members. "
        "Asked, charged, masked and attested like any other question; the sum is two "
        "histograms of log-odds, and what is read of them.",
    ),
    Method(
        "queries.train",
        params.QueriesTrain,
        results.QueriesAsk,
        "Fit a logistic regression where the data lie, in rounds of clipped and noisy gradients. "
        "Each dataset pays for all rounds before the first; what is cut goes on with "
        "`queries.resume`.",
    ),
    Method(
        "queries.resume",
        params.QueriesResume,
        results.QueriesAsk,
        "Go on with a question of this node that was cut, where institutions were away or this "
        "node was. What was answered is not paid again.",
    ),
    Method(
        "queries.forget",
        params.QueriesForget,
        results.QueriesForget,
        "Give up a question of this node that was begun and cannot end. What this node and the "
        "institutions hold of it is freed and nobody can go on with it; what was paid stays paid.",
    ),
)
