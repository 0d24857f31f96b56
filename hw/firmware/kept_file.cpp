#include "hw/firmware/kept_file.h"

#include <fcntl.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>

#include "src/base/format.h"
#include "src/base/host.h"
#include "src/base/log.h"

namespace vmm::hw {

std::shared_ptr<KeptFile> KeptFile::open(const std::string& path) {
  auto kept = std::make_shared<KeptFile>();
  kept->path_ = path;
  kept->fd_.reset(host::open_file(path, O_RDONLY));
  if (!kept->fd_ || ::fstat(kept->fd_.get(), &kept->first_) != 0 || !S_ISREG(kept->first_.st_mode)) return nullptr;
  return kept;
}

void KeptFile::read(u64 offset, std::span<u8> into) {
  struct stat now{};
  // By its number: libc's own would be a call that takes names, which a virtual CPU's thread has not (src/cage).
  const bool changed = ::syscall(SYS_fstat, fd_.get(), &now) != 0 || now.st_size != first_.st_size ||
                       now.st_mtim.tv_sec != first_.st_mtim.tv_sec || now.st_mtim.tv_nsec != first_.st_mtim.tv_nsec;
  if (changed && !std::exchange(told_, true))
    report_warning(format("'{}' has changed since the start: the guest starts with what is there now", path_));
  for (usize done = 0; done < into.size();) {
    const ssize_t n = ::pread(fd_.get(), into.data() + done, into.size() - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      std::ranges::fill(into.subspan(done), u8{0});
      return;
    }
    done += static_cast<usize>(n);
  }
}

}  // namespace vmm::hw
