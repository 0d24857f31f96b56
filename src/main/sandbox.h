// What the process gives up: by -sandbox (src/cage), and its user and its view of the file system (-run-with). Source: contract.md §7.
#pragma once

#include <optional>
#include <string>

#include "src/base/result.h"
#include "src/cage/cage.h"
#include "src/value/field.h"

namespace vmm::cli {

struct SandboxKeys {
  std::optional<std::string> enable;  // on, off or strict; not said: on
  std::optional<std::string> files;
  std::optional<std::string> obsolete, elevateprivileges, spawn, resourcecontrol;  // allow or deny; elevateprivileges: children too
  std::optional<bool> audit;
};

struct RunWithKeys {
  std::optional<std::string> user, chroot;
  std::optional<bool> async_teardown, exit_with_parent;
};

// What cage a machine gets: one without a word about it, too. With keys that exclude each other or mean nothing: an error.
Result<cage::Options> cage_options(const SandboxKeys& keys);
// At the beginning: what concerns our parent and our end.
Result<> run_with_early(const RunWithKeys& keys);
// When everything is open: chroot, then the user.
Result<> run_with_late(const RunWithKeys& keys);

}  // namespace vmm::cli

namespace vmm {
template <>
inline constexpr std::array fields<cli::SandboxKeys> = {
    field<&cli::SandboxKeys::enable>("enable", "on: what no machine needs ends the process. strict: nothing is opened any more."),
    field<&cli::SandboxKeys::files>(
        "files", "Folder (or file) that images may name files in as backing or data files; -sandbox given again: one more."),
    field<&cli::SandboxKeys::audit>("audit", "on: what would be denied is printed and done; to find what a list lacks."),
    field<&cli::SandboxKeys::obsolete>("obsolete", "allow: obsolete system calls too."),
    field<&cli::SandboxKeys::elevateprivileges>("elevateprivileges", "deny: no change of user, group or session; children: only theirs."),
    field<&cli::SandboxKeys::spawn>(
        "spawn", "deny: no other programs; otherwise the broker starts them (scripts of network cards, exec: of migration)."),
    field<&cli::SandboxKeys::resourcecontrol>("resourcecontrol", "deny: no change of priorities and affinities."),
};
template <>
inline constexpr std::array fields<cli::RunWithKeys> = {
    field<&cli::RunWithKeys::async_teardown>("async-teardown", "Memory is given back after the process has ended."),
    field<&cli::RunWithKeys::chroot>("chroot", "Folder that becomes the root."),
    field<&cli::RunWithKeys::exit_with_parent>("exit-with-parent", "End when the parent does."),
    field<&cli::RunWithKeys::user>("user", "User to become: NAME, or UID:GID."),
};
}  // namespace vmm
