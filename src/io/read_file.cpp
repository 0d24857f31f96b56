#include "src/io/read_file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "src/base/fd.h"
#include "src/base/format.h"
#include "src/base/host.h"

namespace vmm {

Result<std::vector<u8>> read_file(const std::string& path, u64 limit_bytes, std::string_view what) {
  const Fd fd{host::open_file(path, O_RDONLY)};
  struct stat st;
  const auto broken = [&] { return fail("{}: {}", what, std::strerror(errno)); };
  if (!fd || ::fstat(fd.get(), &st) != 0) return broken();
  const auto too_long = [&] { return fail("{}: longer than the {} bytes that are allowed", what, limit_bytes); };
  if (S_ISREG(st.st_mode) && static_cast<u64>(st.st_size) > limit_bytes) return too_long();
  std::vector<u8> bytes;
  // A pipe does not say its size: room grows with what comes, and one byte more than allowed tells that there is more.
  const u64 step = S_ISREG(st.st_mode) ? static_cast<u64>(st.st_size) + 1 : 64 * KiB;
  for (usize done = 0;;) {
    if (done == bytes.size()) bytes.resize(std::min(limit_bytes + 1, std::max<u64>(done + step, done * 2)));
    const ssize_t n = ::read(fd.get(), bytes.data() + done, bytes.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return broken();
    done += static_cast<usize>(n);
    if (done > limit_bytes) return too_long();
    if (n == 0) {
      bytes.resize(done);
      return bytes;
    }
  }
}

}  // namespace vmm
