#include "src/vm/memory_backend.h"

#include <unistd.h>

#include "tests/unit/test.h"

using namespace vmm;
using vm::MemoryBackend;

namespace {
Result<Ref<MemoryBackend>> backend(std::string_view type, std::initializer_list<std::pair<std::string_view, std::string_view>> properties) {
  auto object = object_cast<MemoryBackend>(make_object(*find_type(type)));
  for (auto& [name, value] : properties) TRY(object->set(name, Value{value}));
  TRY(object->complete());
  return object;
}
std::string error_of(const Result<Ref<MemoryBackend>>& r) { return r ? "" : r.error().message; }
}  // namespace

TEST(memory_backend_makes_its_block) {
  MachineLocked lock;
  auto ram = OK(backend("memory-backend-ram", {{"size", "2M"}, {"prealloc", "on"}, {"merge", "off"}, {"dump", "off"}}));
  CHECK_EQ(ram->block()->size_bytes(), u64{2 * MiB});
  CHECK(ram->block()->fd() < 0);
  auto memfd = OK(backend("memory-backend-memfd", {{"size", "4096"}}));
  CHECK(memfd->block()->fd() >= 0);
  CHECK(OK(memfd->get("share")) == Value{true});
  OK(memfd->take("/machine"));
  CHECK(!memfd->take("/machine/unattached/device[0]") && !memfd->may_remove());
  memfd->give_back();
  OK(memfd->may_remove());
}

TEST(memory_backend_refuses_what_makes_no_sense) {
  MachineLocked lock;
  CHECK_EQ(error_of(backend("memory-backend-ram", {})), std::string{"Parameter 'size' is missing"});
  CHECK_EQ(error_of(backend("memory-backend-file", {{"size", "1M"}})), std::string{"Parameter 'mem-path' is missing"});
  CHECK(error_of(backend("memory-backend-file", {{"size", "1M"}, {"mem-path", "/nonexistent/x"}})) ==
        "can't open backing store /nonexistent/x for guest RAM: No such file or directory");
  CHECK(!backend("memory-backend-ram", {{"size", "0"}}));
  CHECK(!backend("memory-backend-ram", {{"size", "1M"}, {"policy", "bind"}}));
  CHECK(!backend("memory-backend-ram", {{"size", "1M"}, {"policy", "bind"}, {"host-nodes", "7-3"}}));
  CHECK(!backend("memory-backend-ram", {{"size", "1M"}, {"prealloc", "on"}, {"reserve", "off"}}));
  CHECK(!backend("memory-backend-memfd", {{"size", "1M"}, {"hugetlb", "on"}, {"hugetlbsize", "3M"}}));
}

TEST(memory_backend_file_keeps_its_contents) {
  MachineLocked lock;
  char path[] = "/tmp/vmm-test-XXXXXX";
  Fd file{::mkstemp(path)};
  {
    auto first = OK(backend("memory-backend-file", {{"size", "1M"}, {"mem-path", path}, {"share", "on"}}));
    first->block()->host()[12345] = 7;
  }
  {
    auto second = OK(backend("memory-backend-file", {{"size", "1M"}, {"mem-path", path}}));
    CHECK_EQ(unsigned(second->block()->host()[12345]), 7u);
    CHECK(error_of(backend("memory-backend-file", {{"size", "2M"}, {"mem-path", path}})) ==
          "backing store size 0x100000 does not match 'size' option 0x200000");
  }
  ::unlink(path);
  auto temporary = OK(backend("memory-backend-file", {{"size", "1M"}, {"mem-path", "/tmp"}, {"share", "on"}}));
  CHECK(temporary->block()->fd() >= 0);
}
