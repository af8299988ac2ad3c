# shellcheck shell=bash
# Runs the lab tests, and tells how long they took.

STALL="detected stalls on CPUs|self-detected stall on CPU"

# QEMU 10.0's software CPUs can lose their timers (tests/harness/l1.rs says when); the emulated
# host's kernel then reports stalls, and no test on it can pass. Only with that proof do the tests
# that failed run again. Ends the script.
run_lab_tests() { # run_lab_tests ARGUMENT...
    local log=$LOGS/lab-tests.log status stalled failed round
    rm -f "$LOGS/test-times"
    for round in 1 2 3; do
        rm -f "$LOGS"/console-*.log
        status=0
        cargo test --locked -p berth --test lab -- "$@" 2>&1 | tee "$log" |
            { grep --line-buffered -v '^test result:' || true; } || status=$?
        if [ "$status" = 0 ]; then break; fi
        stalled=$(grep -lsE "$STALL" "$LOGS"/console-*.log || true)
        mapfile -t failed < <(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$log")
        if [ "$round" = 3 ] || [ -z "$stalled" ] || [ "${#failed[@]}" = 0 ]; then break; fi
        set -- --exact "${failed[@]}"
        say "the emulator stalled ($stalled); once more: ${failed[*]}"
    done
    report_phases
    slowest_tests
    say "the emulator stalled in $((round - 1)) of $round rounds"
    grep '^test result:' "$log" || true
    leave "$status"
}

slowest_tests() {
    [ -s "$LOGS/test-times" ] || return 0
    printf 'the ten slowest lab tests, in seconds\n' >&2
    awk '{ sum[$2] += $1 } END { for (test in sum) printf "%8.1f  %s\n", sum[test], test }' "$LOGS/test-times" |
        sort -rn | sed 10q >&2
}
