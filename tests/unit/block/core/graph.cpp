// Images through the graph: what is written is read, unaligned, past the end, by name and by options.
#include <cstdio>
#include <filesystem>

#include "block/core/backend.h"
#include "tests/unit/test.h"

using namespace vmm;
using namespace vmm::block;

namespace {
std::string scratch(std::string_view name) { return format("/tmp/vmm-block-{}-{}", ::getpid(), name); }
struct Image {
  EventLoop loop;
  std::string path;
  NodeRef node;
  explicit Image(std::string_view name, u64 bytes, std::string format = "raw") : path(scratch(name)) {
    OK(run_task(loop, create_image(loop, path, format, {.length_bytes = bytes})));
    node = OK(run_task(loop, open_image(loop, path, format, {})));
  }
  ~Image() {
    (void)run_task(loop, release(std::move(node)));
    std::filesystem::remove(path);
  }
};
}  // namespace

TEST(raw_image_reads_what_was_written) {
  Image image{"plain", 1 * MiB};
  auto edge = OK(Edge::make(image.node, "root", "test", Role::user, permit_read | permit_write, permit_all));
  std::vector<u8> out(3000), in(3000);
  for (usize i = 0; i < out.size(); i++) out[i] = u8(i * 7 + 1);
  OK(run_task(image.loop, edge->write(12345, IoVector::of(out))));
  OK(run_task(image.loop, edge->read(12345, IoVector{in})));
  CHECK(in == out);
  OK(run_task(image.loop, edge->flush()));
  OK(run_task(image.loop, edge->zero(12345, 3000)));
  OK(run_task(image.loop, edge->read(12345, IoVector{in})));
  CHECK(all_zero(in));
  auto past = run_task(image.loop, edge->read(1 * MiB - 1000, IoVector{in}));
  CHECK(!past && error_number(past.error()) == EIO);
}

TEST(backend_holds_requests_while_it_drains) {
  Image image{"drain", 1 * MiB};
  auto backend = OK(make_backend({.id = "disk-of-test"}));
  OK(backend->insert(image.node));
  CHECK_EQ(backend->length_bytes(), 1 * MiB);
  struct Client : BackendClient {
    std::string qom_path() const override { return "/machine/peripheral/test"; }
  } client;
  OK(backend->attach(client));
  OK(backend->start(true, false));
  backend->drain_begin();
  std::vector<u8> bytes(512, 9);
  bool done = false;
  backend->write(0, IoVector::of(bytes)).start([&](Result<> r) { done = r.has_value(); });
  while (image.loop.run_once(false)) {
  }
  CHECK(!done);
  backend->drain_end();
  while (!done) image.loop.run_once(true);
  backend->detach(client);
  OK(run_task(image.loop, backend->remove_medium()));
  CHECK(!backend->has_medium());
  forget_backend(backend);
}
