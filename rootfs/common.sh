# shellcheck shell=bash
# common.sh: what the guest-building scripts share: places, stamps, messages and progress.

set -euo pipefail
export LC_ALL=C
umask 022
# mke2fs and others lie where Debian lets only root look.
export PATH=$PATH:/usr/sbin:/sbin

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=${BUILD:-$top/build}
# shellcheck disable=SC2034 # used by the scripts that read this file
kernel_dir=$build/kernel
# shellcheck disable=SC2034
image_dir=$build/images
# One fixed time for every file made here, so that two builds are the same.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-1735689600}

say()
{
	printf '%s\n' "$*"
}

# die - say what is wrong (and, after a dash, what to do about it), and stop.
die()
{
	printf '%s: %s\n' "$(basename "$0")" "$*" >&2
	exit 1
}

# need COMMAND PACKAGE - stop with the one line to run when a tool is missing.
need()
{
	command -v "$1" >/dev/null || die "$1 is missing (apt-get install $2, or: make deps)"
}

# hash_of ITEM… - one hash over the contents of files and over plain words.
hash_of()
{
	local item

	for item; do
		if [[ -f $item ]]; then
			sha256sum <"$item"
		else
			printf '%s\n' "$item"
		fi
	done | sha256sum | cut -c1-16
}

# fresh OUTPUT HASH - true when OUTPUT exists and was made from the same inputs.
fresh()
{
	[[ -s $1 && -f $1.stamp && $(<"$1.stamp") == "$2" ]]
}

stamp()
{
	printf '%s\n' "$2" >"$1.stamp"
}

# mmss SECONDS
mmss()
{
	printf '%d:%02d' $(($1 / 60)) $(($1 % 60))
}

# watch_job PID LABEL EXPECTED_SECONDS COUNT_COMMAND EXPECTED_COUNT
# One line about a background job: redrawn on a terminal, every 30 s elsewhere. Returns the job's status.
# EXPECTED_COUNT 0: progress is judged by time alone.
watch_job()
{
	local pid=$1 label=$2 expect_s=$3 count_cmd=$4 expect_n=$5
	local begin=$SECONDS next=30 spent done_n pct

	while kill -0 "$pid" 2>/dev/null; do
		spent=$((SECONDS - begin))
		if [[ -t 1 ]] || ((spent >= next)); then
			if ((expect_n)); then
				done_n=$(eval "$count_cmd")
				pct=$((done_n * 100 / expect_n))
			else
				pct=$((spent * 100 / expect_s))
			fi
			((pct <= 99)) || pct=99
			if [[ -t 1 ]]; then
				printf '\r%-28s %3d %%  %s of about %s \033[K' "$label" "$pct" "$(mmss "$spent")" "$(mmss "$expect_s")"
			else
				printf '%-28s %3d %%  %s of about %s\n' "$label" "$pct" "$(mmss "$spent")" "$(mmss "$expect_s")"
				next=$((next + 30))
			fi
		fi
		sleep 1
	done
	[[ ! -t 1 ]] || printf '\r\033[K'
	wait "$pid"
}
