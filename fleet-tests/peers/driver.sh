# Sourced by `setup` and `run`, which set `here`: where each peer's driver is.

all_peers=(apalis-postgres awa graphile_worker underway graphile-worker pg-boss procrastinate pgqueuer)
installed=$here/.installed

# Sets `kind` and `driver` for the peer $1.
driver_of() {
    case $1 in
        apalis-postgres | awa | graphile_worker | underway)
            kind=rust
            driver=("$installed/rust/release/peer-$1")
            ;;
        graphile-worker | pg-boss)
            kind=npm
            # The Node.js that the peers ask for is a package too.
            driver=("$here/npm/node_modules/node/bin/node" "$here/npm/$1.mjs")
            ;;
        procrastinate | pgqueuer)
            kind=pypi
            driver=("$installed/pypi/bin/python" "$here/pypi/main.py" "$1")
            ;;
        *) return 1 ;;
    esac
}
