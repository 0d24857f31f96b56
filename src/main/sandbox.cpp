#include "src/main/sandbox.h"

#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>

namespace vmm::cli {

namespace {

Result<bool> denied(const std::optional<std::string>& word, std::string_view key, bool otherwise, bool* children = nullptr) {
  if (!word) return otherwise;
  if (*word == "deny") return true;
  if (*word == "allow") return false;
  if (children && *word == "children") return *children = true, false;
  return fail("invalid argument for '{}': allow or deny{}, not '{}'", key, children ? " or children" : "", *word);
}

// Shares our memory and outlives us by as long as giving that back takes. Nothing of it is used but its stack and two system calls.
int wait_for_the_end(void*) {
  ::prctl(PR_SET_NAME, "cleanup");
  sigset_t all;
  sigfillset(&all);
  sigdelset(&all, SIGKILL);
  sigprocmask(SIG_BLOCK, &all, nullptr);
  ::syscall(SYS_close_range, 0u, ~0u, 0u);
  // Not by a signal at the parent's death: a parent that has become another user may not send us one.
  const pid_t parent = ::getppid();
  pollfd ended{.fd = static_cast<int>(::syscall(SYS_pidfd_open, parent, 0)), .events = POLLIN, .revents = 0};
  while (::getppid() == parent && ::poll(&ended, 1, ended.fd < 0 ? 100 : -1) <= 0) {
  }
  ::syscall(SYS_exit, 0);
  return 0;
}

}  // namespace

Result<cage::Options> cage_options(const SandboxKeys& keys) {
  cage::Options out;
  bool children = false;
  out.policy.strict = keys.enable == "strict";
  out.policy.obsolete = !TRY(denied(keys.obsolete, "obsolete", true));
  out.policy.elevate = !TRY(denied(keys.elevateprivileges, "elevateprivileges", false, &children));
  out.policy.resources = !TRY(denied(keys.resourcecontrol, "resourcecontrol", false));
  out.policy.audit = keys.audit.value_or(false);
  out.programs = !TRY(denied(keys.spawn, "spawn", false));
  return out;
}

Result<> run_with_early(const RunWithKeys& keys) {
  if (keys.exit_with_parent.value_or(false)) {
    const pid_t parent = ::getppid();
    if (::prctl(PR_SET_PDEATHSIG, SIGTERM) != 0) return fail_errno("exit-with-parent is not possible");
    if (::getppid() != parent) return fail("the parent process has ended already");
  }
  if (keys.async_teardown.value_or(false)) {
    constexpr usize stack_bytes = 64 * KiB;
    void* const stack = ::mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (stack == MAP_FAILED) return fail_errno("async-teardown is not possible");
    if (::clone(wait_for_the_end, static_cast<u8*>(stack) + stack_bytes, CLONE_VM, nullptr) < 0)
      return fail_errno("async-teardown is not possible");
  }
  return {};
}

Result<> run_with_late(const RunWithKeys& keys) {
  uid_t uid = 0;
  gid_t gid = 0;
  std::string name;
  if (keys.user) {
    const std::string& text = *keys.user;
    if (const passwd* const entry = ::getpwnam(text.c_str())) {
      uid = entry->pw_uid, gid = entry->pw_gid, name = entry->pw_name;
    } else {
      const usize colon = text.find(':');
      const char* const end = text.data() + text.size();
      if (colon == text.npos || std::from_chars(text.data(), text.data() + colon, uid).ptr != text.data() + colon ||
          std::from_chars(text.data() + colon + 1, end, gid).ptr != end || colon + 1 == text.size() || colon == 0)
        return fail("User \"{}\" doesn't exist (and is not <uid>:<gid>)", text);
    }
  }
  if (keys.chroot) {
    if (::chroot(keys.chroot->c_str()) != 0) return fail_errno(format("chroot to '{}' failed", *keys.chroot));
    if (::chdir("/") != 0) return fail_errno("not able to chdir to / after chroot");
  }
  if (keys.user) {
    if (::setgid(gid) != 0) return fail_errno(format("Failed to setgid({})", gid));
    if ((name.empty() ? ::setgroups(0, nullptr) : ::initgroups(name.c_str(), gid)) != 0) return fail_errno("Failed to set the groups");
    if (::setuid(uid) != 0) return fail_errno(format("Failed to setuid({})", uid));
    if (uid != 0 && ::setuid(0) != -1) return fail("Dropping privileges failed");
  }
  return {};
}

}  // namespace vmm::cli
