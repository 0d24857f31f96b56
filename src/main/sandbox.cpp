#include "src/main/sandbox.h"

#include <grp.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
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
#include <cstddef>
#include <vector>

namespace vmm::cli {

namespace {

// Never needed, and a way out of most cages.
constexpr u32 dangerous[] = {SYS_reboot,        SYS_swapon,     SYS_swapoff,     SYS_syslog,          SYS_mount,
                             SYS_umount2,       SYS_kexec_load, SYS_afs_syscall, SYS_getpmsg,         SYS_putpmsg,
                             SYS_security,      SYS_tuxcall,    SYS_vserver,     SYS_init_module,     SYS_finit_module,
                             SYS_delete_module, SYS_pivot_root, SYS_acct,        SYS_kexec_file_load, SYS_open_by_handle_at,
                             SYS_move_mount,    SYS_fsopen,     SYS_fsmount,     SYS_open_tree};
constexpr u32 obsolete[] = {SYS__sysctl, SYS_create_module, SYS_get_kernel_syms, SYS_query_module, SYS_sysfs, SYS_uselib, SYS_ustat};
constexpr u32 privileges[] = {SYS_setuid,    SYS_setgid,    SYS_setpgid,  SYS_setsid,   SYS_setreuid,  SYS_setregid,
                              SYS_setresuid, SYS_setresgid, SYS_setfsuid, SYS_setfsgid, SYS_setgroups, SYS_capset};
constexpr u32 spawning[] = {SYS_fork, SYS_vfork, SYS_execve, SYS_execveat, SYS_setns, SYS_unshare};
constexpr u32 resources[] = {SYS_setpriority,   SYS_sched_setparam,    SYS_sched_setscheduler,
                             SYS_sched_setattr, SYS_sched_setaffinity, SYS_ioprio_set};

// Other processes, the kernel's own doors, the host's clock and names: nothing of a machine's business.
constexpr u32 foreign[] = {
    SYS_ptrace,   SYS_process_vm_readv, SYS_process_vm_writev, SYS_kcmp,           SYS_pidfd_getfd,   SYS_bpf,         SYS_perf_event_open,
    SYS_keyctl,   SYS_add_key,          SYS_request_key,       SYS_iopl,           SYS_ioperm,        SYS_modify_ldt,  SYS_vhangup,
    SYS_quotactl, SYS_settimeofday,     SYS_clock_settime,     SYS_adjtimex,       SYS_clock_adjtime, SYS_sethostname, SYS_setdomainname,
    SYS_fsconfig, SYS_fspick,           SYS_mount_setattr,     SYS_lookup_dcookie, SYS_nfsservctl};

// On the thread that met a denied call: says so, and ends the process. Only what a signal handler may do.
void met_denied_call(int, siginfo_t* info, void*) {
  char text[256];
  usize n = 0;
  const auto say = [&](const char* word) {
    while (*word && n < sizeof text) text[n++] = *word++;
  };
  const auto number = [&](long v) {
    char digits[24];
    int count = 0;
    do digits[count++] = static_cast<char>('0' + v % 10);
    while ((v /= 10) > 0);
    while (count > 0 && n < sizeof text) text[n++] = digits[--count];
  };
  char name[16] = {};
  ::prctl(PR_GET_NAME, name);
  say("vmm: thread '"), say(name), say("' has met system call "), number(info->si_syscall);
  say(", which the sandbox denies: a flaw, or an attack; '-sandbox off' would allow it\n");
  [[maybe_unused]] const ssize_t written = ::write(2, text, n);
  ::syscall(SYS_exit_group, 159);  // as a shell shows an end by SIGSYS
}

Result<bool> denied(const std::optional<std::string>& word, std::string_view key, bool otherwise, bool* children = nullptr) {
  if (!word) return otherwise;
  if (*word == "deny") return true;
  if (*word == "allow") return false;
  if (children && *word == "children") return *children = true, false;
  return fail("invalid argument for '{}': allow or deny{}, not '{}'", key, children ? " or children" : "", *word);
}

class Filter {
 public:
  Filter() {
    load(offsetof(seccomp_data, arch));
    add(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
    add(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    load(offsetof(seccomp_data, nr));
    add(BPF_JMP | BPF_JGE | BPF_K, 0x4000'0000, 0, 1);  // the x32 ABI's numbers
    add(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
  }
  void refuse(std::span<const u32> calls, u32 answer) {
    for (const u32 nr : calls) {
      add(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1);
      add(BPF_RET | BPF_K, answer);
    }
  }
  // Threads may be made, processes not. clone3's arguments lie in memory, which a filter cannot see: libc then takes clone.
  void refuse_processes() {
    add(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 0, 1);
    add(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS);
    add(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 4);
    load(offsetof(seccomp_data, args[0]));
    add(BPF_JMP | BPF_JSET | BPF_K, CLONE_THREAD, 1, 0);
    add(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
    add(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  }
  Result<> install() {
    add(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return fail_errno("failed to install seccomp syscall filter in the kernel");
    const sock_fprog program{.len = static_cast<unsigned short>(code_.size()), .filter = code_.data()};
    if (::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) != 0)
      return fail_errno("failed to install seccomp syscall filter in the kernel");
    return {};
  }

 private:
  void load(usize offset) { add(BPF_LD | BPF_W | BPF_ABS, static_cast<u32>(offset)); }
  void add(unsigned code, u32 k, u8 yes = 0, u8 no = 0) { code_.push_back({static_cast<u16>(code), yes, no, k}); }
  std::vector<sock_filter> code_;
};

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

Result<> enter_sandbox(const SandboxKeys& keys) {
  if (!keys.enable.value_or(false)) return {};
  bool children = false;
  const bool no_obsolete = TRY(denied(keys.obsolete, "obsolete", true));
  const bool no_privileges = TRY(denied(keys.elevateprivileges, "elevateprivileges", false, &children));
  const bool no_spawn = TRY(denied(keys.spawn, "spawn", false));
  const bool no_resources = TRY(denied(keys.resourcecontrol, "resourcecontrol", false));
  Filter filter;
  filter.refuse(dangerous, SECCOMP_RET_KILL_PROCESS);
  if (no_obsolete) filter.refuse(obsolete, SECCOMP_RET_KILL_PROCESS);
  if (no_privileges) filter.refuse(privileges, SECCOMP_RET_ERRNO | EPERM);
  if (no_resources) filter.refuse(resources, SECCOMP_RET_ERRNO | EPERM);
  if (no_spawn) {
    filter.refuse(spawning, SECCOMP_RET_ERRNO | EPERM);
    filter.refuse_processes();
  }
  return filter.install();
}

Result<> enter_default_cage() {
  struct sigaction action{};
  action.sa_sigaction = met_denied_call;
  action.sa_flags = SA_SIGINFO;
  if (::sigaction(SIGSYS, &action, nullptr) != 0) return fail_errno("cannot handle SIGSYS");
  Filter filter;
  filter.refuse(dangerous, SECCOMP_RET_TRAP);
  filter.refuse(obsolete, SECCOMP_RET_TRAP);
  filter.refuse(foreign, SECCOMP_RET_TRAP);
  return filter.install();
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
