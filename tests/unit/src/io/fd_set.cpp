#include "src/io/fd_set.h"

#include <fcntl.h>

#include "tests/unit/test.h"

using namespace vmm;

TEST(fd_set_gives_a_member_with_the_access_asked_for) {
  Fd reader{::open("/dev/null", O_RDONLY | O_CLOEXEC)}, writer{::open("/dev/null", O_WRONLY | O_CLOEXEC)};
  const i64 set = OK(io::add_to_fd_set(std::nullopt, std::move(reader), "rdonly:/dev/null"));
  const int number = writer.get();
  CHECK_EQ(OK(io::add_to_fd_set(set, std::move(writer), "")), set);
  const std::string path = format("/dev/fdset/{}", set);
  const Fd got = OK(io::open_file(path, O_WRONLY | O_APPEND));
  CHECK((::fcntl(got.get(), F_GETFL) & O_ACCMODE) == O_WRONLY && got.get() != number);
  CHECK_EQ(io::open_file(path, O_RDWR).error().message, format("Could not open '{}': Permission denied", path));
  OK(io::remove_from_fd_set(set, number));
  CHECK(!io::open_file(path, O_WRONLY) && !io::remove_from_fd_set(set, number));
  OK(io::remove_from_fd_set(set, std::nullopt));
  CHECK(io::fd_sets().empty());
  CHECK_EQ(io::open_file("/nonexistent/x", O_RDONLY).error().message,
           std::string{"Could not open '/nonexistent/x': No such file or directory"});
}

TEST(fd_set_named_descriptors_are_taken_once) {
  OK(io::name_fd("net", Fd{::open("/dev/null", O_RDONLY | O_CLOEXEC)}));
  CHECK(bool(OK(io::take_named_fd("net"))));
  CHECK_EQ(io::take_named_fd("net").error().message, std::string{"File descriptor named 'net' not found"});
  CHECK(!io::name_fd("1net", Fd{}) && !io::take_named_fd("99999999999"));
}
