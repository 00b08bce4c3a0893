"""Every error number of the admin interface, and what it means.

Numbers below -32000 are JSON-RPC's own, and say that the call itself was wrong.  Positive ones
are ours: the call was understood and refused.  A number never changes its meaning.
"""

from collections.abc import Mapping

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
BUSY = -32000
PROTOCOL_RULE = 160

MEANING: Mapping[int, str] = {
    PARSE_ERROR: "the line is not JSON",
    INVALID_REQUEST: "the line is JSON but no request, or too long",
    METHOD_NOT_FOUND: "there is no such method, or this node's role does not serve it",
    INVALID_PARAMS: "a parameter is missing, unknown or out of bounds",
    INTERNAL_ERROR: "the daemon is at fault; its log says more",
    BUSY: "too many programs are connected",
    100: "the node refused; no narrower number fits",
    110: "configuration",
    120: "the data directory, its database or a blob",
    130: "the key file",
    140: "a peer, a stream or the listening socket",
    150: "the admin interface",
    PROTOCOL_RULE: "what was sent, or received from a peer, breaks a rule of the protocol",
    210: "no grant, membership or role covers this",
    220: "a table, or what is said of it, cannot be published",
    300: "a training run or round cannot go on as asked",
    400: "the compute child or the worker",
    410: "a model on disk, or the key of one",
    500: "the chain",
    501: "the chain does not answer; asking again is safe",
    502: "a contract refused",
}
