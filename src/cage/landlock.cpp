#include "src/cage/landlock.h"

#include <fcntl.h>
#include <linux/landlock.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

namespace vmm::cage {

namespace {
constexpr const char* places[] = {
    "/usr",      "/lib",         "/lib64",     "/etc", "/run/systemd/resolve", "/run/NetworkManager", "/run/resolvconf",
    "/dev/null", "/dev/urandom", "/dev/random"};
}

std::span<const char* const> readable_places() { return places; }

Result<Fd> make_rules(bool reading, std::span<const std::string> more) {
  const long version = ::syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
  if (version < 1) return fail_errno("this kernel has no Landlock");
  // Rights by the version that brought them: 13 first, then moving to other folders (2), cutting off (3), requests to devices (5).
  landlock_ruleset_attr attributes{};
  attributes.handled_access_fs = (1u << 13) - 1;
  if (version >= 2) attributes.handled_access_fs |= 1u << 13;
  if (version >= 3) attributes.handled_access_fs |= 1u << 14;
  if (version >= 5) attributes.handled_access_fs |= 1u << 15;
  Fd rules{static_cast<int>(::syscall(SYS_landlock_create_ruleset, &attributes, sizeof attributes, 0))};
  if (!rules) return fail_errno("Landlock gives no rules");
  if (!reading) return rules;
  std::vector<std::string> all{std::begin(places), std::end(places)};
  all.insert(all.end(), more.begin(), more.end());
  for (const std::string& place : all) {
    const Fd fd{::open(place.c_str(), O_PATH | O_CLOEXEC)};
    struct stat info;
    if (!fd || ::fstat(fd.get(), &info) != 0) continue;
    landlock_path_beneath_attr rule{};
    rule.parent_fd = fd.get();
    rule.allowed_access = LANDLOCK_ACCESS_FS_READ_FILE | (S_ISDIR(info.st_mode) ? LANDLOCK_ACCESS_FS_READ_DIR : 0u);
    if (::syscall(SYS_landlock_add_rule, rules.get(), LANDLOCK_RULE_PATH_BENEATH, &rule, 0) != 0)
      return fail_errno(format("Landlock does not take {}", place));
  }
  return rules;
}

Result<> put_on_rules(const Fd& rules) {
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || ::syscall(SYS_landlock_restrict_self, rules.get(), 0) != 0)
    return fail_errno("Landlock does not close");
  return {};
}

}  // namespace vmm::cage
