// Files that a machine starts from again: read where they are, also when somebody has cut them meanwhile.
#include "hw/firmware/kept_file.h"

#include <unistd.h>

#include <cstdio>
#include <fstream>

#include "src/base/format.h"
#include "tests/unit/test.h"

namespace vmm::hw {

TEST(a_kept_file_reads_what_is_there_and_zeros_where_nothing_is_left) {
  const std::string path = format("/tmp/vmm-kept-{}", ::getpid());
  std::ofstream{path} << "kernel and more";
  const auto file = KeptFile::open(path);
  CHECK(file);
  CHECK_EQ(file->size(), 15u);
  u8 bytes[8];
  file->read(7, bytes);
  CHECK_EQ((std::string_view{reinterpret_cast<char*>(bytes), 8}), "and more");
  CHECK(::truncate(path.c_str(), 9) == 0);
  file->read(7, bytes);
  CHECK_EQ((std::string_view{reinterpret_cast<char*>(bytes), 8}), std::string_view("an\0\0\0\0\0\0", 8));
  // One that is replaced by its name is still the one that was opened.
  std::remove(path.c_str());
  std::ofstream{path} << "another file";
  file->read(0, bytes);
  CHECK_EQ((std::string_view{reinterpret_cast<char*>(bytes), 6}), "kernel");
  std::remove(path.c_str());
  CHECK(!KeptFile::open("/dev/null"));
  CHECK(!KeptFile::open(path));
}

}  // namespace vmm::hw
