"""Last act: one institution is killed without warning, and comes back as it was."""

from typing import Any

from node.demo.claims import Claims
from node.demo.programs import Programs
from node.demo.sites import Place, Site, start_daemon, wait_ready

VICTIM = "KY"


def run(place: Place, programs: Programs, claims: Claims) -> None:
    """Kill -9, start, compare."""
    site = place.sites[VICTIM]
    before = _told(site)
    programs.kill(VICTIM)
    start_daemon(place, programs, VICTIM)
    wait_ready(place, programs, VICTIM)
    after = _told(site)
    claims.check(
        f"{VICTIM} is killed with -9 and comes back with its id, state and listings",
        f"peer {str(after['peer_id'])[-8:]}, state {after['state_root'][:16]},"
        f" {len(after['listings'])} listings",
        holds=before == after,
    )


def _told(site: Site) -> dict[str, Any]:
    (run_,) = site.call("runs.list")["runs"]
    return {
        "peer_id": site.call("status.get")["peer_id"],
        "state_root": run_["state_root"],
        "phase": run_["phase"],
        "rounds": site.call("rounds.list", run=run_["run"])["rounds"],
        "listings": site.call("datasets.list")["datasets"],
        "models": site.call("models.list")["models"],
    }
