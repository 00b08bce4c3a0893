"""Datasets and grants."""

from node.rpc.method import Method
from node.rpc.params import data as params
from node.rpc.params.base import Nothing
from node.rpc.results import data as results

METHODS = (
    Method(
        "datasets.preview",
        params.DatasetsPreview,
        results.DatasetsPreview,
        "What `datasets.publish` with the same parameters would say in public for ever, and, to "
        "this node's operator alone, which unit would hold whom. Encrypts nothing, signs "
        "nothing, tells nobody. After publishing it finds the unit of somebody who withdraws.",
    ),
    Method(
        "datasets.publish",
        params.DatasetsPublish,
        results.DatasetShown,
        "Encrypt tables, images, DICOM, sequences or signals, list them and mint their token. "
        "Title, source, licence and the names of columns and fields become public and stay so. "
        "The same call again goes on where a cut one stopped, or finds what it made.",
    ),
    Method(
        "datasets.works",
        Nothing,
        results.DatasetsWorks,
        "What this node is publishing, fetching and asking hosts about now, and how far it is.",
    ),
    Method(
        "datasets.list",
        Nothing,
        results.DatasetsList,
        "Every dataset on the chain. While the chain does not answer this is the last list that "
        "was read, and `as_of` says of when; so are the rows of `datasets.search` and "
        "`datasets.show`.",
    ),
    Method(
        "datasets.search",
        params.DatasetsSearch,
        results.DatasetsList,
        "Datasets whose listing has all these words and admits all these filters, best first. "
        "Asks nobody: it looks through the listings this node has heard of and verified.",
    ),
    Method(
        "datasets.show",
        params.DatasetsShow,
        results.DatasetShown,
        "One dataset with its listing. The owner is asked for it once, then it is kept.",
    ),
    Method(
        "datasets.fetch",
        params.DatasetsFetch,
        results.DatasetsFetch,
        "Read what a grant covers: ask the owner for keys, pull the encrypted units, check "
        "each against the chain, decrypt into a private file. Without `units` all that is "
        "granted; if one named unit is not granted, nothing is read. All connected holders "
        "give at once; what has arrived when a call is cut is not fetched again.",
    ),
    Method(
        "datasets.rekey",
        params.DatasetsRekey,
        results.DatasetShown,
        "Encrypt a dataset of this node anew, from what is stored here: who was revoked has keys "
        "to nothing that is made from now on. Number, terms and grants stay; who has a grant gets "
        "the new keys with its next fetch. `warnings` names who was given the old ones. The same "
        "call again goes on where a cut one stopped.",
    ),
    Method(
        "datasets.withdraw",
        params.DatasetsWithdraw,
        results.DatasetsWithdraw,
        "Erase units of a dataset of this node, or all of it: keys and ciphertext are destroyed "
        "here, grants end on the chain, coming rounds train without them. The answer says what "
        "cannot be undone. The same call again finishes what a chain that was down has left.",
    ),
    Method(
        "datasets.terms",
        params.DatasetsTerms,
        results.DatasetShown,
        "Change price, longest grant or who decides, for requests from now on. What the listing "
        "says of purposes and conditions stays; a new version changes that.",
    ),
    Method(
        "grants.give",
        params.GrantsGive,
        results.GrantGiven,
        "Let a member read units of a dataset of this node. Who may read what is public. A member "
        "has one grant of a dataset: a new one stands in for the one before.",
    ),
    Method(
        "grants.list",
        params.GrantsList,
        results.GrantsList,
        "All grants of a dataset, those that ended too.",
    ),
    Method(
        "grants.revoke",
        params.GrantsRevoke,
        results.GrantRow,
        "End a grant: on this node at once, on the chain for everyone. What was read before "
        "stays read.",
    ),
)
