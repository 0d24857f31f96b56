// fcntl(2) "Open file description locks", proc(5) /proc/PID/fdinfo.
#include "block/file/lock.h"

#include "src/base/host.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <charconv>
#include <cstdio>
#include <sstream>

namespace vmm::block {

namespace {
constexpr u64 need_base = 100, unshared_base = 200;
constexpr std::string_view lock_names[] = {"consistent read", "write", "write unchanged", "resize"};

// 0, or the errno.
int change(int fd, u64 byte, short type) {
  struct flock lock{.l_type = type, .l_whence = SEEK_SET, .l_start = off_t(byte), .l_len = 1, .l_pid = 0};
  while (::fcntl(fd, F_OFD_SETLK, &lock) < 0)
    if (errno != EINTR) return errno;
  return 0;
}
// Does another descriptor hold a lock on this byte?
bool held_by_other(int fd, u64 byte) {
  struct flock lock{.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = off_t(byte), .l_len = 1, .l_pid = 0};
  return ::fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

struct Directory {
  DIR* dir = nullptr;
  explicit Directory(const std::string& path) {
    const int fd = host::open_file(path, O_RDONLY | O_DIRECTORY);
    dir = fd < 0 ? nullptr : ::fdopendir(fd);
  }
  ~Directory() {
    if (dir) ::closedir(dir);
  }
};
bool is_number(const char* text) {
  for (; *text; text++)
    if (*text < '0' || *text > '9') return false;
  return true;
}
// "lock:	1: OFDLCK  ADVISORY  READ -1 fe:00:1234 201 201" about this file and byte?
bool tells_of(const std::string& line, unsigned device_major, unsigned device_minor, u64 inode, u64 byte) {
  unsigned long long number, last = 0, node = 0, first = 0;
  unsigned major = 0, minor = 0;
  char kind[32], mode[32], type[32], end[32];
  long pid;
  if (std::sscanf(line.c_str(), "lock: %llu: %31s %31s %31s %ld %x:%x:%llu %llu %31s", &number, kind, mode, type, &pid, &major, &minor,
                  &node, &first, end) != 10)
    return false;
  const std::string_view text = end;
  if (text == "EOF")
    last = ~0ull;
  else
    std::from_chars(text.data(), text.data() + text.size(), last);
  return std::string_view{kind} == "OFDLCK" && major == device_major && minor == device_minor && node == inode && first <= byte &&
         byte <= last;
}
}  // namespace

std::string lock_holder(int fd, u64 byte) {
  struct stat s;
  if (::fstat(fd, &s)) return "its holder could not be found";
  Directory proc{"/proc"};
  if (!proc.dir) return "/proc could not be read, so its holder is not known";
  bool hidden = false;
  const std::string own = format("{}", ::getpid());
  while (const dirent* process = ::readdir(proc.dir)) {
    if (!is_number(process->d_name)) continue;
    const std::string folder = format("/proc/{}/fdinfo", process->d_name);
    Directory fds{folder};
    if (!fds.dir) {
      hidden |= errno == EACCES;
      continue;
    }
    while (const dirent* entry = ::readdir(fds.dir)) {
      if (!is_number(entry->d_name)) continue;
      if (own == process->d_name && std::to_string(fd) == entry->d_name) continue;
      std::istringstream info{host::read_text(folder + "/" + entry->d_name)};
      for (std::string line; std::getline(info, line);) {
        if (!line.starts_with("lock:") || !tells_of(line, major(s.st_dev), minor(s.st_dev), s.st_ino, byte)) continue;
        std::string name = host::read_text(format("/proc/{}/comm", process->d_name));
        name = name.empty() ? "?" : name.substr(0, name.find('\n'));
        if (own == process->d_name) return "it is open twice in this process";
        return format("it is held by process {} ({})", process->d_name, name);
      }
    }
  }
  return hidden ? "its holder could not be read from /proc (another user's process)" : "its holder could not be found in /proc";
}

Result<> FileLock::set(int fd, const std::string& filename, u8 needs, u8 unshared, bool optional) {
  const u8 new_needs = needs & ~needs_, new_unshared = unshared & ~unshared_;
  const auto undo = [&] {
    for (unsigned i = 0; i < 4; i++) {
      if (new_needs >> i & 1) change(fd, need_base + i, F_UNLCK);
      if (new_unshared >> i & 1) change(fd, unshared_base + i, F_UNLCK);
    }
  };
  const auto refused = [&](unsigned i, bool shared, u64 byte) {
    Error error{format("Failed to get {}\"{}\" lock", shared ? "shared " : "", lock_names[i])};
    set_os_error(error, EAGAIN);
    error.hint = format("Is another process using the image [{}]? {}", filename, lock_holder(fd, byte));
    undo();
    return std::unexpected(std::move(error));
  };
  for (unsigned i = 0; i < 4; i++)
    for (const bool shared : {false, true}) {
      if (!((shared ? new_unshared : new_needs) >> i & 1)) continue;
      const u64 byte = (shared ? unshared_base : need_base) + i;
      const int error = change(fd, byte, F_RDLCK);
      if (!error) continue;
      if (optional && (error == EINVAL || error == ENOLCK || error == EOPNOTSUPP || error == ENOSYS)) return undo(), Result<>{};
      if (error == EAGAIN || error == EACCES) return refused(i, shared, byte);
      undo();
      return fail_os(error, format("Failed to lock byte {} of '{}'", byte, filename));
    }
  for (unsigned i = 0; i < 4; i++) {
    if (new_needs >> i & 1 && held_by_other(fd, unshared_base + i)) return refused(i, false, unshared_base + i);
    if (new_unshared >> i & 1 && held_by_other(fd, need_base + i)) return refused(i, true, need_base + i);
  }
  for (unsigned i = 0; i < 4; i++) {
    if ((needs_ & ~needs) >> i & 1) change(fd, need_base + i, F_UNLCK);
    if ((unshared_ & ~unshared) >> i & 1) change(fd, unshared_base + i, F_UNLCK);
  }
  needs_ = needs, unshared_ = unshared;
  return {};
}

}  // namespace vmm::block
