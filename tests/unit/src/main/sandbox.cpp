// The default cage: denied calls end the process with a word about them; what a machine needs goes on.
#include "src/main/sandbox.h"

#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/test.h"

namespace vmm::test {

namespace {
struct Ended {
  int status = 0;
  std::string text;
};
// In a process of its own, since a cage cannot be left.
Ended caged(void (*work)()) {
  int ends[2];
  CHECK(::pipe(ends) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(ends[1], 2);
    if (!cli::enter_default_cage()) ::_exit(3);
    work();
    ::_exit(0);
  }
  ::close(ends[1]);
  Ended out;
  char bytes[512];
  for (ssize_t n; (n = ::read(ends[0], bytes, sizeof bytes)) > 0;) out.text.append(bytes, static_cast<usize>(n));
  ::close(ends[0]);
  ::waitpid(child, &out.status, 0);
  return out;
}
}  // namespace

TEST(a_denied_call_is_named_and_ends_the_process) {
  const Ended ended = caged([] { ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr); });
  CHECK(WIFEXITED(ended.status) && WEXITSTATUS(ended.status) == 159);
  CHECK(ended.text.contains("denies") && ended.text.contains("101") && ended.text.contains("-sandbox off"));
}

TEST(the_default_cage_lets_a_machine_work) {
  const Ended ended = caged([] {
    const pid_t child = ::fork();  // scripts of network cards, exec: migration
    if (child == 0) ::execl("/bin/true", "true", nullptr);
    int status = 1;
    ::waitpid(child, &status, 0);
    if (status != 0) ::_exit(4);
  });
  CHECK_EQ(ended.status, 0);
}

}  // namespace vmm::test
