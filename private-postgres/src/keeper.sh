# Runs PostgreSQL, and ends it when it is told to or when nobody needs it any more.
#
#   keeper parent|idle SECONDS SOCKET_DIR PSQL POSTGRES ARGUMENT…
#
# parent: a word on standard input says how to end: "fast" or "immediate". The end of that input says that the parent
#         is gone, whatever killed it, since only the parent holds the other end of the pipe: fast, then.
# idle:   fast, once there has been no client for SECONDS. PGPASSWORD and PGPORT are in the environment.
#
# Being the parent of PostgreSQL makes its process id safe to signal: it cannot be anyone else's until we waited for it.
# Prints that id on its first line, ends with PostgreSQL's own exit code. Standard error is the log.

mode=$1 seconds=$2 sockets=$3 psql=$4
shift 4

# A Ctrl-C in a terminal is meant for the parent, which then tells us.
trap '' HUP INT TERM
exec 3<&0 </dev/null

"$@" >&2 3<&- &
postgres=$!
echo "$postgres"
exec >/dev/null

# Waits that many tenths of a second for the end.
ended_within() {
    tenths=$1
    while kill -0 "$postgres" 2>/dev/null; do
        [ "$tenths" -gt 0 ] || return 1
        tenths=$((tenths - 1))
        sleep 0.1
    done
}

until_told() {
    how=
    read -r how <&3
}

until_idle() {
    how=fast
    idle=0
    while [ "$idle" -lt "$seconds" ]; do
        sleep 2
        clients=$("$psql" -X -w -A -t -h "$sockets" -U postgres -d postgres -c "select count(*) from pg_stat_activity
            where backend_type = 'client backend' and pid <> pg_backend_pid()" 2>/dev/null)
        case $clients in
        '' | 0) idle=$((idle + 2)) ;;
        *) idle=0 ;;
        esac
    done
}

(
    case $mode in
    idle) until_idle ;;
    *) until_told ;;
    esac
    if [ "$how" != immediate ]; then
        kill -INT "$postgres" 2>/dev/null
        ended_within 100 && exit
    fi
    kill -QUIT "$postgres" 2>/dev/null
    ended_within 100 && exit
    kill -KILL "$postgres" 2>/dev/null
) &
watch=$!

wait "$postgres"
code=$?
kill -KILL "$watch" 2>/dev/null
rm -rf -- "$sockets"
exit "$code"
