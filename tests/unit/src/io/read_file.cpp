#include "src/io/read_file.h"

#include <fcntl.h>
#include <unistd.h>

#include "src/base/fd.h"
#include "tests/unit/test.h"

using namespace vmm;

namespace {
std::string why(const std::string& path, u64 limit) {
  const auto bytes = read_file(path, limit, "cannot load it");
  return bytes ? format("{} bytes", bytes->size()) : bytes.error().message;
}
}  // namespace

TEST(a_file_is_read_whole_or_refused) {
  char path[] = "/tmp/vmm-read-file-XXXXXX";
  const Fd file{::mkstemp(path)};
  const std::string text(100'000, 'x');
  CHECK_EQ(why(path, 10), "0 bytes");
  CHECK(::write(file.get(), text.data(), text.size()) == ssize_t(text.size()));
  CHECK_EQ(why(path, 100'000), "100000 bytes");
  CHECK_EQ(why(path, 99'999), "cannot load it: longer than the 99999 bytes that are allowed");
  // A sparse file costs nothing before it is refused.
  CHECK(::ftruncate(file.get(), i64{1} << 40) == 0);
  CHECK(why(path, 1 << 20).contains("longer than"));
  ::unlink(path);
  CHECK_EQ(why(path, 10), "cannot load it: No such file or directory");
  CHECK(why("/tmp", 10).contains("directory"));
}

TEST(an_endless_file_is_refused_at_its_limit_and_a_pipe_is_read_to_its_end) {
  CHECK_EQ(why("/dev/zero", 200'000), "cannot load it: longer than the 200000 bytes that are allowed");
  int ends[2];
  CHECK(::pipe(ends) == 0);
  const Fd out{ends[0]};
  Fd in{ends[1]};
  CHECK(::write(in.get(), "hello", 5) == 5);
  in.reset();
  CHECK_EQ(why(format("/proc/self/fd/{}", out.get()), 100), "5 bytes");
}
