"""When patterns fall due around changes of the clock: an independent calculation with Python's zoneinfo.

    python3 expected.py > expected.csv

Every minute within a day of a change of the clock is looked at. A pattern with one minute and one hour is a fixed time:
due once a day, at the first of two equal times, and when the clock has gone forward if it skipped the time. Any other
pattern is due whenever the clock on the wall shows a time that it names.
"""

from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

ZONES = ["UTC", "Asia/Kolkata", "Europe/Berlin", "Europe/Dublin", "America/New_York", "America/Santiago",
         "Australia/Lord_Howe", "Africa/Casablanca", "Pacific/Chatham", "Asia/Beirut"]
PATTERNS = ["30 2 * * *", "0 0 * * *", "15 1 * * *", "0 3 * * 0", "17 * * * *", "*/20 0-3 * * *", "0,45 2 * * *",
            "0 9 * * 1-5"]
MINUTE = timedelta(minutes=1)


def field(text, top):
    values = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        first, _, last = ("0", "", str(top)) if span == "*" else span.partition("-")
        values |= set(range(int(first), int(last or first) + 1, int(step or 1)))
    return values


def due(pattern, zone, start, end):
    minute, hour, _, _, weekday = pattern.split()
    minutes, hours, weekdays = field(minute, 59), field(hour, 23), field(weekday, 6)
    fixed = minute.isdigit() and hour.isdigit()
    found, done, at, before = [], set(), start, (start - MINUTE).astimezone(zone).replace(tzinfo=None)
    while at <= end:
        local = at.astimezone(zone).replace(tzinfo=None)
        shown = [local]
        if fixed and local - before > MINUTE:
            # The clock has gone forward: what it skipped is due now.
            shown += [before + MINUTE * n for n in range(1, (local - before) // MINUTE)]
        for time in shown:
            names = time.minute in minutes and time.hour in hours and (time.weekday() + 1) % 7 in weekdays
            if names and not (fixed and time.date() in done):
                done.add(time.date())
                if at not in found:
                    found.append(at)
        before, at = local, at + MINUTE
    return found


def changes(zone):
    at, last, end = datetime(2025, 1, 1, tzinfo=timezone.utc), None, datetime(2028, 1, 1, tzinfo=timezone.utc)
    while at < end:
        offset = at.astimezone(zone).utcoffset()
        if last is not None and offset != last:
            yield at
        last, at = offset, at + timedelta(minutes=30)


for name in ZONES:
    zone = ZoneInfo(name)
    for change in list(changes(zone)) or [datetime(2026, 3, 29, 1, tzinfo=timezone.utc)]:
        start, end = change - timedelta(days=1, minutes=7), change + timedelta(days=1)
        for pattern in PATTERNS:
            # Two days earlier, so that a fixed time is not counted twice at the window's edge.
            instants = [at for at in due(pattern, zone, start - timedelta(days=2), end) if at > start]
            minutes = " ".join(str((at - start) // MINUTE) for at in instants)
            print(f"{name};{pattern};{start:%Y-%m-%dT%H:%M:%SZ};{minutes}")
