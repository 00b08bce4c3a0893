"""What each method of the admin interface answers.

The server converts what a service returns to these before it answers, so the documentation
made from them cannot say one thing and the daemon another.  A field is always there; where
there is nothing to say it is null.  Adding a field is free, taking one away is not.
"""
