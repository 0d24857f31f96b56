// What the process gives up: system calls that an emulator never needs (-sandbox), its user and its view of the file system (-run-with).
// Source: seccomp(2), "Seccomp BPF" in the kernel's documentation; contract.md §7.
#pragma once

#include <optional>
#include <string>

#include "src/base/result.h"
#include "src/value/field.h"

namespace vmm::cli {

struct SandboxKeys {
  std::optional<bool> enable;  // not said: the default cage
  std::optional<std::string> files;
  std::optional<std::string> obsolete, elevateprivileges, spawn, resourcecontrol;  // allow or deny; elevateprivileges: children too
};

struct RunWithKeys {
  std::optional<std::string> user, chroot;
  std::optional<bool> async_teardown, exit_with_parent;
};

// For all threads, those that are there and those to come. Cannot be taken back. Without `enable` nothing.
Result<> enter_sandbox(const SandboxKeys& keys);
// What every machine gets without a word about it (-sandbox off: nothing): no new privileges by programs that it starts, and none of the
// system calls that take over other processes, the kernel or the clock. One that is met nevertheless is named, and ends the process.
Result<> enter_default_cage();
// At the beginning: what concerns our parent and our end.
Result<> run_with_early(const RunWithKeys& keys);
// When everything is open: chroot, then the user.
Result<> run_with_late(const RunWithKeys& keys);

}  // namespace vmm::cli

namespace vmm {
template <>
inline constexpr std::array fields<cli::SandboxKeys> = {
    field<&cli::SandboxKeys::enable>("enable", "System calls that are never needed end the process."),
    field<&cli::SandboxKeys::files>(
        "files", "Folder (or file) that images may name files in as backing or data files; -sandbox given again: one more."),
    field<&cli::SandboxKeys::obsolete>("obsolete", "allow: obsolete system calls too."),
    field<&cli::SandboxKeys::elevateprivileges>("elevateprivileges", "deny: no change of user, group or session; children: only theirs."),
    field<&cli::SandboxKeys::spawn>("spawn", "deny: no new processes, no other programs."),
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
