# Sourced by fetch-kernels and fetch-packages: Debian's archive without touching this host's own package lists. Sets `out` and `apt_options`; one
# at a time (tests run two at a time). Prints SKIP, status 77, where the archive is out of reach.
root=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../.."); out=$root/build/kernels; mkdir -p "$out/apt/lists/partial" "$out/deb"
exec 9>"$out/lock"; flock 9
printf 'deb http://deb.debian.org/debian bookworm main\ndeb http://deb.debian.org/debian bookworm-backports main\n' >"$out/apt/sources.list"
apt_options=(-q -o Dir::Etc::sourcelist="$out/apt/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$out/apt/lists" -o APT::Sandbox::User=root)
[ -n "$(find "$out/apt/lists" -maxdepth 1 -name '*Packages*' -mtime -2 2>/dev/null)" ] || apt-get "${apt_options[@]}" update >"$out/apt.log" 2>&1 || {
  echo "SKIP Debian's archive cannot be reached"; exit 77; }
# download PACKAGE[/RELEASE]: the one file in $out/deb.
download() { (cd "$out/deb" && rm -f ./*.deb && apt-get "${apt_options[@]}" download "$1" >>"$out/apt.log" 2>&1); }
