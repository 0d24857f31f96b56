// Source: contract.md §7 ("/dev/fdset/N").
#include <fcntl.h>

#include <cctype>
#include <charconv>
#include <map>
#include <optional>

#include "src/base/host.h"
#include "src/base/lock.h"
#include "src/io/fd_set.h"

namespace vmm::io {

namespace {
struct Member {
  Fd fd;
  std::string opaque;
};
struct Sets {
  Mutex mutex;
  std::map<i64, std::vector<Member>> sets GUARDED_BY(mutex);
  std::map<std::string, Fd> named GUARDED_BY(mutex);
  static Sets& all() {
    static auto* sets = new Sets;
    return *sets;
  }
};
constexpr std::string_view prefix = "/dev/fdset/";
constexpr usize member_limit = 256;
}  // namespace

Result<i64> add_to_fd_set(std::optional<i64> set, Fd fd, std::string opaque) {
  if (set && *set < 0) return fail("Parameter 'fdset-id' expects a non-negative value");
  Sets& all = Sets::all();
  Lock lock{all.mutex};
  i64 id = set.value_or(0);
  if (!set)
    while (all.sets.contains(id)) id++;
  auto& members = all.sets[id];
  if (members.size() >= member_limit) return fail("fdset {} has {} members, which is the limit", id, member_limit);
  members.push_back({std::move(fd), std::move(opaque)});
  return id;
}

Result<> remove_from_fd_set(i64 set, std::optional<int> fd) {
  Sets& all = Sets::all();
  Lock lock{all.mutex};
  auto at = all.sets.find(set);
  const auto missing = [&] {
    return fd ? fail("File descriptor named 'fdset-id:{}, fd:{}' not found", set, *fd)
              : fail("File descriptor named 'fdset-id:{}' not found", set);
  };
  if (at == all.sets.end()) return missing();
  if (!fd)
    at->second.clear();
  else if (!std::erase_if(at->second, [&](const Member& m) { return m.fd.get() == *fd; }))
    return missing();
  if (at->second.empty()) all.sets.erase(at);
  return {};
}

std::vector<FdSetInfo> fd_sets() {
  Sets& all = Sets::all();
  Lock lock{all.mutex};
  std::vector<FdSetInfo> list;
  for (auto& [id, members] : all.sets) {
    FdSetInfo info{.id = id, .members = {}};
    for (const Member& m : members) info.members.push_back({m.fd.get(), m.opaque});
    list.push_back(std::move(info));
  }
  return list;
}

Result<> name_fd(std::string name, Fd fd) {
  if (name.empty() || std::isdigit(static_cast<unsigned char>(name[0])))
    return fail("Parameter 'fdname' expects a name not starting with a digit");
  Sets& all = Sets::all();
  Lock lock{all.mutex};
  if (!all.named.contains(name) && all.named.size() >= member_limit) return fail("{} named descriptors are the limit", member_limit);
  all.named[std::move(name)] = std::move(fd);
  return {};
}

Result<Fd> take_named_fd(const std::string& name) {
  if (!name.empty() && std::isdigit(static_cast<unsigned char>(name[0]))) {
    int number = -1;
    auto [stop, error] = std::from_chars(name.data(), name.data() + name.size(), number);
    if (error != std::errc{} || stop != name.data() + name.size() || ::fcntl(number, F_GETFD) < 0)
      return fail("invalid file descriptor number '{}'", name);
    ::fcntl(number, F_SETFD, FD_CLOEXEC);
    return Fd{number};
  }
  Sets& all = Sets::all();
  Lock lock{all.mutex};
  auto at = all.named.find(name);
  if (at == all.named.end()) return fail("File descriptor named '{}' not found", name);
  Fd fd = std::move(at->second);
  all.named.erase(at);
  return fd;
}

Result<Fd> open_file(const std::string& path, int flags, unsigned mode) {
  if (!path.starts_with(prefix)) {
    Fd fd{host::open_file(path, flags | O_NOCTTY, mode)};
    if (!fd) return fail_errno(format("Could not open '{}'", path));
    return fd;
  }
  i64 id = -1;
  auto [stop, error] = std::from_chars(path.data() + prefix.size(), path.data() + path.size(), id);
  if (error != std::errc{} || stop != path.data() + path.size()) return fail("Could not open '{}': Invalid argument", path);
  Sets& all = Sets::all();
  Lock lock{all.mutex};
  auto at = all.sets.find(id);
  if (at == all.sets.end()) return fail("Could not open '{}': No such file or directory", path);
  for (const Member& m : at->second) {
    const int has = ::fcntl(m.fd.get(), F_GETFL);
    if (has < 0 || (has & O_ACCMODE) != (flags & O_ACCMODE)) continue;
    Fd copy{::fcntl(m.fd.get(), F_DUPFD_CLOEXEC, 3)};
    if (!copy) return fail_errno(format("Could not open '{}'", path));
    if (flags & O_TRUNC) (void)!::ftruncate(copy.get(), 0);
    if (const int wanted = flags & (O_APPEND | O_NONBLOCK)) ::fcntl(copy.get(), F_SETFL, has | wanted);
    return copy;
  }
  return fail("Could not open '{}': Permission denied", path);
}

}  // namespace vmm::io
