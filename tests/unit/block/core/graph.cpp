// Images through the graph: what is written is read, unaligned, past the end, by name and by options.
#include <cstdio>
#include <filesystem>

#include "block/core/backend.h"
#include "block/core/iothread.h"
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

TEST(requests_hop_to_the_iothread_of_their_disk_and_back) {
  EventLoop loop;
  const std::string path = scratch("iothread");
  OK(run_task(loop, create_image(loop, path, "raw", {.length_bytes = 1 * MiB})));
  Ref<IoThread> thread = make_object<IoThread>();
  OK(thread->complete());
  auto backend = OK(make_backend({.id = "threaded"}));
  OK(backend->insert(OK(run_task(loop, open_image(loop, path, "raw", {})))));
  struct Client : BackendClient {
    std::string qom_path() const override { return "/test"; }
  } client;
  OK(backend->attach(client));
  OK(backend->start(true, false));
  backend->set_loop(thread->loop());
  std::vector<std::vector<u8>> data;
  for (unsigned i = 0; i < 64; i++) data.emplace_back(4096, u8(i + 1));
  unsigned left = 64;
  for (unsigned i = 0; i < 64; i++)
    backend->write(i * 4096, IoVector::of(data[i])).start([&](Result<> r) {
      CHECK(r.has_value() && loop.on_this_thread());
      left--;
    });
  // A resize in the midst of it drains first, and happens here.
  OK(run_task(loop, backend->resize(2 * MiB)));
  CHECK_EQ(left, 0u);
  CHECK_EQ(backend->length_bytes(), 2 * MiB);
  std::vector<u8> back(64 * 4096);
  OK(run_task(loop, backend->read(0, IoVector{back})));
  for (unsigned i = 0; i < 64; i++) CHECK(back[i * 4096] == i + 1 && back[i * 4096 + 4095] == i + 1);
  backend->detach(client);
  OK(run_task(loop, backend->remove_medium()));
  forget_backend(backend);
  std::filesystem::remove(path);
}

TEST(a_failed_request_follows_the_policy_of_its_drive) {
  EventLoop loop;
  auto backend = OK(make_backend({.id = "policies"}));
  const Error full = fail_os(ENOSPC).error(), broken = fail_os(EIO).error();
  using Action = Backend::Action;
  unsigned stops = 0;
  set_stop_request([&] { stops++; });
  CHECK(backend->error_action(Operation::write, full) == Action::stop);
  CHECK_EQ(backend->io_status(), "nospace");
  CHECK(backend->error_action(Operation::write, broken) == Action::report);
  CHECK(backend->error_action(Operation::read, full) == Action::report);
  backend->set_error_policies(ErrorPolicy::stop, ErrorPolicy::ignore);
  CHECK(backend->error_action(Operation::read, broken) == Action::stop);
  CHECK(backend->error_action(Operation::write, full) == Action::ignore);
  while (loop.run_once(false)) {
  }
  CHECK_EQ(stops, 2u);
  auto none = run_task(loop, backend->flush());
  CHECK(!none && error_number(none.error()) == ENOMEDIUM);
  set_stop_request(nullptr);
  forget_backend(backend);
}
