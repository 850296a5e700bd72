"""One job as people read it."""

from __future__ import annotations

from typing import Any

from cli.endings import whole_ending
from cli.escape import visible, visible_lines
from cli.render import bytes_text, counted, facts, is_to_come, moment, state_word
from queuectl.times import human_duration

TAIL_LINES = 10
_MEANINGS = {126: " (the shell could not execute it)", 127: " (the shell did not find it)"}


def job_text(told: dict[str, Any], tail: dict[str, str]) -> str:
    """The job, what was done to it, its attempts, and the end of its latest output."""
    about = [*_job_facts(told["job"]), *_variables(told), *_deeds(told)]
    parts = [facts(about)]
    parts += [_attempt_text(attempt) for attempt in told["history"]]
    for stream in ("stdout", "stderr"):
        lines = visible_lines(tail.get(stream, "")).splitlines()[-TAIL_LINES:]
        if lines:
            parts.append("\n".join([f"End of {stream}:", *[f"  {line}" for line in lines]]))
    return "\n\n".join(parts)


def _job_facts(job: dict[str, Any]) -> list[tuple[str, str | None]]:
    because = job["reason"] if job.get("reason") != job["state"] else None
    state = state_word(job["state"]) + (f" ({visible(because)})" if because else "")
    state += ", told to end" if job.get("cancelling") else ""
    waits = job["state"] in ("pending", "failed")
    return [
        ("Job", visible(job["id"])),
        ("Command", visible(job["command"])),
        ("State", state),
        ("Queue", f"{visible(job['queue'])}, priority {job['priority']}"),
        ("Failures", f"{job['attempts']} of {max(1, job['max_retries'])} allowed"),
        ("Lost", f"{counted(job['losses'], 'time')} with its worker" if job.get("losses") else None),
        ("Next run", _next_run(job) if waits else None),
        (
            "Not before",
            moment(job["run_at"]) if job.get("reason") == "held" and is_to_come(job.get("run_at")) else None,
        ),
        ("Retries", _policy(job)),
        (
            "Tags",
            visible(", ".join(f"{key}={value}" for key, value in job["tags"].items())) if job.get("tags") else None,
        ),
        ("Unique key", visible(job["unique"]) if job.get("unique") else None),
        ("Retry of", visible(job["retry_of"]) if job.get("retry_of") else None),
        ("Expires", moment(job.get("expires_at")) if waits and not job.get("attempt") else None),
        ("Deadline", moment(job.get("deadline_at"))),
        ("Input", bytes_text(job["stdin_bytes"]) if job.get("stdin_bytes") is not None else None),
        ("If lost", "dead, it is not run again" if job.get("on_lost") == "dead" else None),
        ("Timeout", human_duration(job["timeout"]) if job.get("timeout") else None),
        ("Directory", visible(job["cwd"]) if job.get("cwd") else None),
        ("Worker", visible(job["worker"]) if job.get("worker") else None),
    ]


def _next_run(job: dict[str, Any]) -> str | None:
    if job.get("reason") == "held":
        return f"when it is released: queuectl release {visible(job['id'])}"
    return moment(job.get("run_at"))


def _variables(told: dict[str, Any]) -> list[tuple[str, str | None]]:
    """The names of its variables, or, where they were asked for, a line for each with its value."""
    job = told["job"]
    if "env_values" not in told:
        return [("Variables", visible(", ".join(job["env"])) if job.get("env") else None)]
    values = [visible(f"{name}={value}") for name, value in told["env_values"].items()]
    return [("Variables" if number == 0 else "", value) for number, value in enumerate(values)]


def _deeds(told: dict[str, Any]) -> list[tuple[str, str | None]]:
    """When it came, what people did to it, and when it ended, with who it was."""
    job = told["job"]
    events = [(event["action"].capitalize(), _deed(event)) for event in told.get("events", [])]
    return [
        ("Enqueued", _by(job.get("created_at"), job.get("enqueued_by"))),
        *[(visible(action), done) for action, done in events],
        ("Finished", moment(job.get("finished_at"))),
    ]


def _deed(event: dict[str, Any]) -> str | None:
    done = _by(event["at"], event["by"])
    return f"{done}: {visible(event['note'])}" if done and event.get("note") else done


def _by(instant: str | None, who: str | None) -> str | None:
    when = moment(instant)
    return f"{when} by {visible(who)}" if when and who else when


def _backoff(job: dict[str, Any]) -> str:
    base, backoff = f"{job['backoff_base']:g}", job.get("backoff", "exp")
    if isinstance(backoff, list):
        return f"they wait {', '.join(f'{delay:g}' for delay in backoff)} s"
    words = {"exp": f"the n-th waits {base} ** n s", "linear": f"the n-th waits {base} * n s"}
    return words.get(backoff, f"each waits {base} s")


def _policy(job: dict[str, Any]) -> str:
    text = _backoff(job)
    if job.get("backoff_max") is not None:
        text += f", at most {human_duration(job['backoff_max'])}"
    if job.get("backoff_jitter") not in (None, "none"):
        text += f", jitter {visible(job['backoff_jitter'])}"
    for name, words in (("retry_on", "only after"), ("no_retry_on", "not after")):
        if job.get(name):
            text += f"; {words} exit {', '.join(map(str, job[name]))}"
    return text


def _attempt_text(attempt: dict[str, Any]) -> str:
    took = human_duration(attempt["duration_s"]) if attempt.get("duration_s") is not None else None
    return facts(
        [
            (f"Attempt {attempt['attempt']}", _outcome(attempt)),
            ("  worker", visible(attempt["worker"]) if attempt.get("worker") else None),
            ("  started", moment(attempt.get("started_at"))),
            ("  took", took),
            ("  output", _sizes(attempt)),
            ("  note", visible(attempt["note"]) if attempt.get("note") else None),
        ]
    )


def _outcome(attempt: dict[str, Any]) -> str:
    outcome = visible(attempt.get("outcome") or "running")
    if outcome == "timeout":
        return "timed out"
    meaning = _MEANINGS.get(attempt.get("exit_code") or 0, "") if outcome == "exit" else ""
    return whole_ending(outcome, attempt.get("exit_code"), attempt.get("signal")) + meaning


def _sizes(attempt: dict[str, Any]) -> str | None:
    stdout, stderr = attempt.get("stdout_bytes") or 0, attempt.get("stderr_bytes") or 0
    if not stdout and not stderr:
        return None
    return f"stdout {bytes_text(stdout)}, stderr {bytes_text(stderr)}"
