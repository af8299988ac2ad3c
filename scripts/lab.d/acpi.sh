# shellcheck shell=bash
# berth's ACPI tables through an independent parser, Intel's iasl.

# iasl ends with 0 on a wrong checksum or an unknown structure, and says so in its output only.
IASL_COMPLAINTS='Incorrect checksum|Invalid|Unknown|Warning|terminates early'

# Each table must be read without complaint, and what iasl compiles from its own reading must be
# the table again, but for checksum (byte 10) and the compiler's name and revision (29 to 36).
check_acpi() {
    local folder=$LOGS/acpi table base differences
    rm -rf "$folder"
    mkdir -p "$folder"
    (cd "${repo:?}" && cargo run -q --locked -p berth-arch --example acpi_dump -- "$folder") || return
    for table in "$folder"/*/*.aml; do
        base=${table%.aml}
        iasl -d "$table" >"$base.log" 2>&1 || { tail -n 5 "$base.log" >&2; die "iasl cannot read $table"; }
        if grep -HnE "$IASL_COMPLAINTS" "$base.dsl" >&2; then die "iasl complains about $table"; fi
        # iasl puts its own suffix in place of whatever follows a dot.
        iasl -ve -p "$base-again" "$base.dsl" >"$base.log" 2>&1 ||
            { tail -n 5 "$base.log" >&2; die "iasl refuses its own reading of $table"; }
        differences=$(cmp -l "$table" "$base-again.aml" || [ "$?" = 1 ]) || die "iasl compiled nothing from $base.dsl"
        if awk '$1 != 10 && ($1 < 29 || $1 > 36)' <<<"$differences" | grep . >&2; then
            die "iasl reads $table as something else: $base.dsl (byte, was, is)"
        fi
    done
    say "iasl reads all $(find "$folder" -name '*.dsl' | wc -l) ACPI tables"
}
