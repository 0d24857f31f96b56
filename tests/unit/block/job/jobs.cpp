// Jobs on a disk that is written to meanwhile: what a mirror leaves is what was written last, what a backup leaves is what was there when
// it began, and streaming and committing change nothing that a reader sees.
#include <map>
#include <random>

#include "block/core/backend.h"
#include "block/job/mirror.h"
#include "src/base/bits.h"
#include "src/event/worker_pool.h"
#include "tests/unit/block/format/recording_file.h"
#include "tests/unit/test.h"

namespace vmm::block {
namespace {

constexpr u64 disk_bytes = 8 * MiB, unit = 4 * KiB, units = disk_bytes / unit;

struct Client final : BackendClient {
  std::string qom_path() const override { return "/machine/peripheral/test"; }
};

// One disk with writers that never rest: each unit holds the number of its last write.
struct Bench {
  EventLoop loop;
  Client client;
  BackendRef backend;
  std::vector<u32> model = std::vector<u32>(units);
  u64 writers = 0;
  bool stop = false;
  u32 last = 0;

  template <class T>
  Result<T> run(Task<T> task) {
    return run_task(loop, std::move(task));
  }
  NodeRef image(const std::string& name, Value create = Value::object(), const std::string& backing = "") {
    OK(run(create_image(loop, "recording:" + name, "qcow2", {.length_bytes = disk_bytes, .options = std::move(create)})));
    Value tree = Value::object();
    tree.set("driver", Value{"qcow2"});
    tree.set("node-name", Value{name});
    tree.set("discard", Value{"unmap"});
    tree.set("file", Value{Value::Members{{"driver", Value{"recording"}}, {"filename", Value{name}}}});
    tree.set("backing", backing.empty() ? Value{} : Value{backing});
    NodeRef node = OK(run(open_node(loop, std::move(tree))));
    hold_node(node);
    return node;
  }
  explicit Bench(const NodeRef* top = nullptr) {
    backend = OK(make_backend({.id = "disk"}));
    if (top) use(*top);
  }
  void use(const NodeRef& node) {
    OK(backend->insert(node));
    OK(backend->attach(client));
    OK(backend->start(true, false));
  }
  ~Bench() {
    stop = true;
    while (writers) loop.run_once(true);
    for (const auto& j : all_jobs()) {
      (void)j->cancel(true);
      while (j->status() != JobStatus::concluded && j->status() != JobStatus::null) loop.run_once(true);
      (void)j->dismiss();
    }
    backend->detach(client);
    (void)run(backend->remove_medium());
    forget_backend(backend);
    for (bool any = true; any;) {
      any = false;
      for (const NodeRef& n : all_nodes())
        if (n->parents().empty())
          if (auto held = take_held_node(n->node_name())) (void)run(release(std::move(*held))), any = true;
    }
  }
  static Task<> write_on(Bench& b, u64 seed, u64 lane) {
    std::mt19937_64 random{seed};
    std::vector<u8> data(unit * 8);
    while (!b.stop) {
      const u64 n = 1 + random() % 8, at = (random() % (units / 4 - n)) + lane * (units / 4);
      const u32 tag = ++b.last;
      for (u64 i = 0; i < n * unit; i += 4) store_le(&data[i], tag);
      const bool zeros = random() % 8 == 0;
      if (zeros)
        co_await b.backend->zero(at * unit, n * unit, {.may_unmap = true});
      else
        co_await b.backend->write(at * unit, IoVector{data.data(), n * unit});
      for (u64 i = 0; i < n; i++) b.model[at + i] = zeros ? 0 : tag;
      co_await switch_to(b.loop);
    }
    b.writers--;
    co_return Result<>{};
  }
  void start_writers() {
    stop = false;
    for (u64 lane = 0; lane < 4; lane++) {
      writers++;
      write_on(*this, last + lane, lane).start([](Result<> r) { CHECK(r.has_value()); });
    }
  }
  void stop_writers() {
    stop = true;
    while (writers) loop.run_once(true);
  }
  void until(const std::function<bool()>& done) {
    for (u64 turns = 0; !done(); turns++) {
      loop.run_once(true);
      CHECK(turns < 2'000'000);
      if (turns >= 2'000'000) return;
    }
  }
  void expect(BlockNode& node, const std::vector<u32>& wanted, const char* where) {
    auto edge = OK(Edge::make(node.shared_from_this(), "look", "the test", Role::user, permit_read, permit_all));
    std::vector<u8> data(disk_bytes);
    OK(run(edge->read(0, IoVector{std::span{data}})));
    for (u64 i = 0; i < units; i++)
      if (load_le<u32>(&data[i * unit]) != wanted[i] || load_le<u32>(&data[i * unit + unit - 4]) != wanted[i]) {
        test::failed("contents", __FILE__, __LINE__,
                     format("{}: unit {} holds {}, not {}", where, i, load_le<u32>(&data[i * unit]), wanted[i]));
        return;
      }
  }
};

Value tree(std::initializer_list<std::pair<const char*, const char*>> members) {
  Value v = Value::object();
  for (const auto& [name, value] : members) v.set(name, Value{value});
  return v;
}

}  // namespace

TEST(a_mirror_ends_with_what_was_written_last) {
  for (const u64 granularity : {512, 65536}) {
    Bench b;
    const NodeRef source = b.image("source"), target = b.image("target", tree({{"cluster_size", "4k"}}));
    b.use(source);
    b.start_writers();
    b.until([&] { return b.last > 200; });
    auto job =
        make_mirror(JobType::mirror, {.id = "m", .auto_dismiss = false}, {.source = source, .target = target, .granularity = granularity});
    OK(start_job(job));
    // Limited for a while, so that many writes meet the copy.
    OK(job->set_speed(16 * MiB));
    b.until([&] { return job->done_bytes() > 2 * MiB; });
    OK(job->pause());
    b.until([&] { return job->status() == JobStatus::paused; });
    const u32 then = b.last;
    b.until([&] { return b.last > then + 100; });
    OK(job->resume());
    OK(job->set_speed(0));
    b.until([&] { return b.last > then + 300; });
    b.stop_writers();
    b.until([&] { return job->status() == JobStatus::ready; });
    b.start_writers();
    b.until([&] { return b.last > then + 500; });
    OK(job->complete());
    b.until([&] { return job->status() == JobStatus::concluded; });
    CHECK(!job->error());
    CHECK(b.backend->node() == target.get());
    const u32 now = b.last;
    b.until([&] { return b.last > now + 50; });
    b.stop_writers();
    b.expect(*target, b.model, "after the mirror");
    CHECK(source->parents().empty());
  }
}

TEST(a_backup_is_the_disk_as_it_was_when_it_began) {
  Bench b;
  const NodeRef source = b.image("source", tree({{"cluster_size", "4k"}})), target = b.image("target");
  b.use(source);
  b.start_writers();
  b.until([&] { return b.last > 300; });
  b.stop_writers();
  const std::vector<u32> then = b.model;
  const control::Command* command = control::find_command("blockdev-backup");
  struct : control::Context {
  } context;
  OK(command->run(context, tree({{"device", "disk"}, {"target", "target"}, {"sync", "full"}, {"job-id", "b"}})
                               .set("speed", u64{256 * KiB})
                               .set("auto-dismiss", false)));
  const auto job = find_job("b");
  b.until([&] { return source->watches<WriteWatcher>(); });
  b.start_writers();
  b.until([&] { return b.last > 1000; });
  OK(job->set_speed(0));  // it was too slow to have ended
  b.until([&] { return job->status() == JobStatus::concluded; });
  CHECK(!job->error());
  b.stop_writers();
  b.expect(*target, then, "the backup");
  b.expect(*source, b.model, "the disk");
  CHECK(!source->watches<WriteWatcher>());
}

TEST(streams_and_commits_change_nothing_that_a_reader_sees) {
  for (const char* what : {"stream", "stream to base", "commit", "active commit"}) {
    Bench b;
    const std::string_view kind{what};
    const NodeRef base = b.image("base");
    b.use(base);
    b.start_writers();
    b.until([&] { return b.last > 50; });
    b.stop_writers();
    b.backend->detach(b.client);
    OK(b.run(b.backend->remove_medium()));
    const NodeRef mid = b.image("mid", tree({{"cluster_size", "16k"}}), "base");
    b.use(mid);
    b.start_writers();
    b.until([&] { return b.last > 100; });
    b.stop_writers();
    b.backend->detach(b.client);
    OK(b.run(b.backend->remove_medium()));
    const NodeRef top = b.image("top", tree({{"cluster_size", "4k"}}), "mid");
    b.use(top);
    b.start_writers();
    b.until([&] { return b.last > 150; });
    struct : control::Context {
    } context;
    Value args = tree({{"device", "disk"}, {"job-id", "j"}});
    args.set("auto-dismiss", false);
    if (kind == "stream to base") args.set("base-node", "base");
    if (kind == "commit") args.set("top-node", "mid").set("base-node", "base");
    if (kind == "active commit") args.set("base-node", "mid");
    OK(control::find_command(kind.contains("stream") ? "block-stream" : "block-commit")->run(context, args));
    const auto job = find_job("j");
    if (kind == "active commit") {
      b.until([&] { return b.last > 400; });
      b.stop_writers();
      b.until([&] { return job->status() == JobStatus::ready; });
      b.start_writers();
      OK(job->complete());
    }
    b.until([&] { return job->status() == JobStatus::concluded; });
    if (job->error()) test::failed("job", __FILE__, __LINE__, format("{}: {}", what, *job->error()));
    const u32 now = b.last;
    b.until([&] { return b.last > now + 50; });
    b.stop_writers();
    BlockNode& disk = *b.backend->node();
    b.expect(disk, b.model, what);
    CHECK(&disk == (kind == "active commit" ? mid.get() : top.get()));
    const BlockNode* below = backing_of(disk);
    CHECK(below == (kind == "stream" ? nullptr : base.get()));
    CHECK_EQ(disk.backing_filename(), kind == "stream" || kind == "active commit" ? "" : "base");
  }
}

}  // namespace vmm::block
