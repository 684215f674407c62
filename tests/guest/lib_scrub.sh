# SPDX-License-Identifier: GPL-2.0-only
# What the tests of healing and scrub share: source it after lib.sh.

damage() {
	python3 "$(dirname "$0")/lib_damage.py" "$DEV" "$@"
}

# field NAME [COMMAND...]: a value of a JSON document
field() {
	local name=$1
	shift
	"$@" --json | python3 -c 'import json, sys
for part in sys.argv[1].split("."):
    d = json.load(sys.stdin) if part == sys.argv[1].split(".")[0] else d
    d = d[int(part) if part.isdigit() else part]
print(d)' "$name"
}

scrub_field() {
	field "$1" aegisfs scrub status "$MNT"
}

# status EXPECTED COMMAND...: with that exit status
status() {
	local expected=$1 got=0
	shift
	"$@" > /tmp/output 2>&1 || got=$?
	[ "$got" = "$expected" ] || die "'$*' ended with $got, not $expected: $(cat /tmp/output)"
}

clean_scrub() {
	status 0 aegisfs scrub start --wait "$MNT"
	same "errors" "0 0" "$(scrub_field metadata_errors) $(scrub_field data_errors)"
}
