#!/bin/sh
# The main job of queuectl from enqueue to dead letter, in a home of its own that goes away at the end.
# Needs queuectl on PATH; `make demo` sees to that. Exits 0 only if everything ended as it should.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
DEMO=$(mktemp -d "${TMPDIR:-/tmp}/queuectl-demo.XXXXXX")
QUEUECTL_HOME=$DEMO/home
export DEMO QUEUECTL_HOME
unset QUEUECTL_ENDPOINT QUEUECTL_DATA_DIR QUEUECTL_AUTOSTART
export QUEUECTL_LOG_FORMAT=console QUEUECTL_LOG_LEVEL=warning # what fails shows while it happens

clean_up() {
    trap '' INT TERM HUP
    queuectl worker stop --now --timeout 10 >/dev/null 2>&1 || true
    queuectl broker stop >/dev/null 2>&1 || true
    rm -rf "$DEMO"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$(printf '\033[1m') plain=$(printf '\033[0m'); else bold='' plain=''; fi

say() { printf '\n%s# %s%s\n' "$bold" "$*" "$plain"; }

# Show a command as it would be typed, then run it.
run() {
    printf '%s$ queuectl' "$bold"
    for word in "$@"; do
        case $word in
            *[!A-Za-z0-9._=/:-]*) printf " '%s'" "$word" ;;
            *) printf ' %s' "$word" ;;
        esac
    done
    printf '%s\n' "$plain"
    queuectl "$@"
}

expect() { # expect WHAT WANTED FOUND
    [ "$2" = "$3" ] || { printf 'demo failed: %s: expected %s, found %s\n' "$1" "$2" "$3" >&2; exit 1; }
}

ids() { queuectl list -q --state "$1" | sort | tr '\n' ' '; }

mkdir -p "$DEMO/tree/docs"
echo 'hello' >"$DEMO/tree/greeting"
echo 'world' >"$DEMO/tree/docs/object"

say 'A setting of the queue, for all new jobs: retry after 1 second. The first command starts the broker.'
run config set backoff_base 1

say 'Store some jobs: as JSON, as a command, from a file. Acknowledged means on disk.'
run enqueue '{"id":"hello","command":"echo Hello World"}'
run enqueue --id urgent --priority 10 -- 'echo "I had priority"'
run enqueue --file "$here/jobs.jsonl"
run list

say 'The broker may go away: what it has acknowledged stays.'
run broker stop

say 'A broker and three workers in one command, until nothing is left to do. What fails is logged.'
code=0
run dev --workers 3 --until-empty || code=$?
expect 'exit code of dev, as one job is dead' 1 "$code"

say 'What became of them?'
run status
run list
expect 'completed jobs' 'archive count flaky hello slow urgent ' "$(ids completed)"
expect 'dead jobs' 'report ' "$(ids dead)"

say 'What they printed is kept.'
run logs archive
run logs slow

say 'One failed at first and was tried again.'
run logs flaky --attempt 1
run logs flaky --attempt 2
expect 'output of the second attempt' 'the network is back' "$(queuectl logs flaky --attempt 2)"

say 'One has used up its attempts: it waits in the dead letter queue, and says why.'
run dlq list
run show report

say 'Mend the cause, and give it a fresh start.'
printf '%s$ echo "all is well" > report.txt%s\n' "$bold" "$plain"
echo 'all is well' >"$DEMO/report.txt"
run dlq retry report
run broker stop
run dev --workers 3 --until-empty
run logs report
expect 'output of the mended job' 'all is well' "$(queuectl logs report)"
expect 'completed jobs' 'archive count flaky hello report slow urgent ' "$(ids completed)"
expect 'dead jobs' '' "$(ids dead)"

say 'Seven jobs ran, one of them after a retry, one after its death. The demo cleans up after itself.'
