// Host files: engines, holes, locks, hostile names.
#include <fcntl.h>
#include <unistd.h>

#include <filesystem>

#include "block/core/node.h"
#include "src/base/fd.h"
#include "tests/unit/test.h"

using namespace vmm;
using namespace vmm::block;

namespace {
struct Scratch {
  std::string path;
  explicit Scratch(std::string_view name, u64 bytes) : path(format("/tmp/vmm-file-{}-{}", ::getpid(), name)) {
    Fd fd{::open(path.c_str(), O_CREAT | O_RDWR | O_TRUNC | O_CLOEXEC, 0600)};
    CHECK(fd && ::ftruncate(fd.get(), off_t(bytes)) == 0);
  }
  ~Scratch() { std::filesystem::remove(path); }
};
Value file_options(const std::string& path) { return Value::object().set("driver", "file").set("filename", path); }
}  // namespace

TEST(every_engine_moves_the_same_bytes) {
  Scratch file{"engines", 1 * MiB};
  for (const char* aio : {"threads", "io_uring", "native"})
    for (const bool direct : {false, true}) {
      if (!direct && std::string_view{aio} == "native") continue;
      EventLoop loop;
      Value options = file_options(file.path);
      options.set("aio", aio).set("cache", Value::object().set("direct", direct));
      auto opened = run_task(loop, open_node(loop, std::move(options)));
      if (!opened && opened.error().message.contains("io_uring")) continue;  // a host without it says so
      NodeRef node = OK(std::move(opened));
      auto edge = OK(Edge::make(node, "root", "test", Role::user, permit_read | permit_write, permit_all));
      // Many at once, in pieces, none aligned.
      constexpr u64 count = 300, size = 1500;
      std::vector<std::vector<u8>> data(count);
      u64 left = count;
      for (u64 i = 0; i < count; i++) {
        data[i].assign(size, u8(i * 31 + direct));
        IoVector pieces{std::span{data[i]}.first(7)};
        pieces.add(std::span{data[i]}.subspan(7, 700));
        pieces.add(std::span{data[i]}.subspan(707));
        edge->write(i * 2000, pieces).start([&](Result<> r) {
          CHECK(r.has_value());
          left--;
        });
      }
      while (left) loop.run_once(true);
      OK(run_task(loop, edge->flush()));
      std::vector<u8> all(count * 2000);
      OK(run_task(loop, edge->read(0, IoVector{all})));
      for (u64 i = 0; i < count; i++) CHECK(std::equal(data[i].begin(), data[i].end(), all.begin() + i64(i * 2000)));
      edge.reset();
      OK(run_task(loop, release(std::move(node))));
    }
}

TEST(discard_makes_a_hole_that_reads_as_zeros) {
  Scratch file{"holes", 1 * MiB};
  EventLoop loop;
  Value options = file_options(file.path);
  options.set("discard", "unmap");
  NodeRef node = OK(run_task(loop, open_node(loop, std::move(options))));
  auto edge = OK(Edge::make(node, "root", "test", Role::user, permit_read | permit_write, permit_all));
  std::vector<u8> ones(256 * KiB, 1), back(256 * KiB);
  OK(run_task(loop, edge->write(0, IoVector::of(ones))));
  const u64 before = OK(run_task(loop, node->allocated_bytes()));
  OK(run_task(loop, edge->discard(64 * KiB, 128 * KiB)));
  CHECK_EQ(OK(run_task(loop, node->allocated_bytes())), before - 128 * KiB);
  const Extent hole = OK(run_task(loop, edge->map(64 * KiB, 1 * MiB)));
  CHECK(hole.kind == Extent::Kind::zero && hole.length == 128 * KiB);
  OK(run_task(loop, edge->zero(0, 64 * KiB, {})));
  OK(run_task(loop, edge->read(0, IoVector{back})));
  CHECK(all_zero(std::span{back}.first(192 * KiB)) && back[192 * KiB] == 1);
  edge.reset();
  OK(run_task(loop, release(std::move(node))));
}

TEST(two_writers_of_one_file_are_refused_with_the_holder_named) {
  Scratch file{"locks", 1 * MiB};
  EventLoop loop;
  NodeRef one = OK(run_task(loop, open_node(loop, file_options(file.path))));
  NodeRef two = OK(run_task(loop, open_node(loop, file_options(file.path))));
  auto first = OK(Edge::make(one, "root", "test", Role::user, permit_read | permit_write, permit_read));
  auto second = Edge::make(two, "root", "test", Role::user, permit_read | permit_write, permit_read);
  CHECK(!second && second.error().message == "Failed to get \"write\" lock");
  CHECK(second.error().hint.contains("open twice in this process"));
  auto reader = OK(Edge::make(two, "root", "test", Role::user, permit_read, permit_all));
  reader.reset();
  first.reset();
  auto third = OK(Edge::make(two, "root", "test", Role::user, permit_read | permit_write, permit_read));
  third.reset();
  OK(run_task(loop, release(std::move(one))));
  OK(run_task(loop, release(std::move(two))));
}

TEST(what_cannot_be_opened_says_why) {
  EventLoop loop;
  const auto why = [&](Value options) {
    auto node = run_task(loop, open_node(loop, std::move(options)));
    CHECK(!node);
    return node.error().message;
  };
  CHECK_EQ(why(file_options("/nowhere/x")), "Could not open '/nowhere/x': No such file or directory");
  CHECK(why(file_options("/tmp")).contains("/tmp"));
  CHECK(why(file_options("/dev/null")).contains("regular file"));
  CHECK(why(file_options("/dev/fdset/99")).contains("No such file"));
  CHECK_EQ(why(file_options("/x").set("bogus", 1)), "Parameter 'bogus' is unexpected");
  CHECK(why(Value::object().set("driver", "raw")).contains("\"file\""));
  Value deep = Value::object().set("driver", "file").set("filename", "/nowhere");
  for (unsigned i = 0; i < 300; i++) deep = Value::object().set("driver", "raw").set("file", std::move(deep));
  CHECK(why(std::move(deep)).contains("deep"));
  auto name = run_task(loop, open_image(loop, "nosuchproto:x", "", {}));
  CHECK(!name && name.error().message == "Unknown protocol 'nosuchproto'");
  auto json = run_task(loop, open_image(loop, "json:{\"driver\"", "", {}));
  CHECK(!json);
}
