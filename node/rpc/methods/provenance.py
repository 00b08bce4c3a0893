"""Where things come from."""

from node.rpc.method import Method
from node.rpc.params import provenance as params
from node.rpc.results import provenance as results

METHODS = (
    Method(
        "provenance.show",
        params.ProvenanceShow,
        results.ProvenanceShow,
        "What came of what, as far as this node can verify it: every relation rests on a "
        "signature, on the chain or on both, and what does not verify is a doubt with its "
        "reason.",
    ),
    Method(
        "provenance.export",
        params.ProvenanceExport,
        results.ProvenanceExport,
        "Write the same as W3C PROV-O in JSON-LD, as a picture, for Graphviz, or as the signed "
        "records it was made of, which another node verifies for itself.",
    ),
)
