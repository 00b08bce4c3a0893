"""What each method of the admin interface may be asked, with its bounds.

A field's description is its documentation (docs/rpc.md is made from it) and the hint a caller
reads when the value is refused.  Unknown fields are refused, so a misspelt option never
passes for its default.
"""
