// qcow2 images in memory: contents against a model, power cuts at any point, damage.
#include "src/event/worker_pool.h"
#include "tests/unit/block/format/qcow2_bench.h"

namespace vmm::block {
namespace {
using namespace qcow2_bench;
using test::Disk;
using test::disks;

// What each sector may hold: what the last flush made sure of, and all that was written since.
struct Model {
  static constexpr u32 zero = 0;
  struct Sector {
    u32 sure = zero;
    std::vector<u32> maybe;
  };
  std::vector<Sector> sectors;
  u32 now(u64 s) const { return sectors[s].maybe.empty() ? sectors[s].sure : sectors[s].maybe.back(); }
  void write(u64 s, u32 tag) { sectors[s].maybe.push_back(tag); }
  void flush() {
    for (Sector& s : sectors)
      if (!s.maybe.empty()) s.sure = s.maybe.back(), s.maybe.clear();
  }
};
// A seeded script of everything that changes an image. The order of steps is the same for a seed; the model follows.
struct Script {
  Bench& bench;
  Model& model;
  std::mt19937_64 random;
  u64 length;
  bool snapshots = true;
  u32 tag = 100;
  std::vector<std::pair<std::string, std::vector<u32>>> saved{};
  // A snapshot that is being taken while the script goes on.
  std::optional<std::vector<u32>> held{};
  u64 state_bytes = 0;

  void step() {
    const u64 count = length / sector;
    u64 at = random() % count;
    const u64 kind = random() % 100;
    u64 n = 1 + random() % (random() % 4 ? 24 : 300);
    if (random() % 3 == 0) at = align_down(at, 32);
    n = std::min(n, count - at);
    Edge& e = *bench.edge;
    if (kind < 62) {
      std::vector<u8> data(n * sector);
      for (u64 i = 0; i < n; i++) fill(std::span{data}.subspan(i * sector, sector), ++tag);
      OK(bench.run(e.write(at * sector, IoVector{std::span{data}})));
      for (u64 i = 0; i < n; i++) model.write(at + i, tag - static_cast<u32>(n - 1 - i));
    } else if (kind < 72) {
      OK(bench.run(e.zero(at * sector, n * sector, {.may_unmap = random() % 2 == 0})));
      for (u64 i = 0; i < n; i++) model.write(at + i, Model::zero);
    } else if (kind < 80) {
      // A discard may or may not take effect; what is read afterwards is the truth.
      OK(bench.run(e.discard(at * sector, n * sector)));
      std::vector<u8> data(n * sector);
      OK(bench.run(e.read(at * sector, IoVector{std::span{data}})));
      for (u64 i = 0; i < n; i++) {
        const u32 v = load_le<u32>(&data[i * sector]);
        if (v != Model::zero && v != model.now(at + i) && v != base_tag(at + i))
          test::failed("discard", __FILE__, __LINE__,
                       format("sector {} of {}+{} holds {:#x}, not {:#x}", at + i, at, n, v, model.now(at + i)));
        if (v != model.now(at + i)) model.write(at + i, v);
      }
    } else if (kind < 94 || !snapshots) {
      OK(bench.run(e.flush()));
      model.flush();
    } else if (held) {
      step_while_held();
    } else if (kind < 97 || saved.empty()) {
      if (saved.size() >= 2) return;
      if (random() % 2) return hold();
      const std::string name = format("s{}", tag);
      qcow2::Snapshot s;
      s.name = name;
      OK(bench.run(bench.image().create_snapshot(std::move(s))));
      model.flush();
      std::vector<u32> copy;
      for (u64 i = 0; i < count; i++) copy.push_back(model.now(i));
      saved.emplace_back(name, std::move(copy));
    } else if (kind < 98) {
      const auto& [name, contents] = saved[random() % saved.size()];
      for (u64 i = 0; i < count; i++) model.write(i, contents[i]);
      OK(bench.run(bench.image().apply_snapshot(name)));
      model.flush();
    } else {
      const usize which = random() % saved.size();
      OK(bench.run(bench.image().delete_snapshot(saved[which].first)));
      saved.erase(saved.begin() + static_cast<i64>(which));
    }
  }
  void hold() {
    OK(bench.run(bench.image().drop_vm_state()));
    if (random() % 2) OK(bench.run(bench.image().reserve_vm_state(256 * KiB)));
    OK(bench.run(bench.image().prepare_to_hold()));
    model.flush();
    state_bytes = 0;
    OK(bench.run(bench.image().hold()));
    held.emplace();
    for (u64 i = 0; i < length / sector; i++) held->push_back(model.now(i));
  }
  void step_while_held() {
    if (const u64 what = random() % 8; what == 0) {
      OK(bench.run(bench.image().release_held()));
      held.reset();
    } else if (what < 5 && state_bytes < 200 * KiB) {
      std::vector<u8> data((1 + random() % 64) * sector);
      for (u64 i = 0; i < data.size() / sector; i++)
        fill(std::span{data}.subspan(i * sector, sector), static_cast<u32>(0x5000'0000 + state_bytes / sector + i));
      OK(bench.run(bench.image().write_vm_state(state_bytes, IoVector{std::span{data}})));
      state_bytes += data.size();
    } else {
      const std::string name = format("h{}", tag);
      OK(bench.run(bench.image().keep_held({.name = name, .vm_state_bytes = state_bytes})));
      model.flush();
      saved.emplace_back(name, *std::exchange(held, std::nullopt));
      look_at_state(name, state_bytes);
    }
  }
  void look_at_state(const std::string& name, u64 bytes) {
    if (!bytes) return;
    OK(bench.run(bench.image().show_vm_state(name)));
    std::vector<u8> data(bytes);
    OK(bench.run(bench.image().read_vm_state(0, IoVector{std::span{data}})));
    bench.image().hide_vm_state();
    for (u64 i = 0; i < bytes / sector; i++)
      if (load_le<u32>(&data[i * sector]) != 0x5000'0000 + i) test::failed("state", __FILE__, __LINE__, format("sector {} of {}", i, name));
  }
  void look(const char* name, int i) {
    const u64 at = random() % (length / sector - 64);
    std::vector<u8> data(64 * sector);
    OK(bench.run(bench.edge->read(at * sector, IoVector{std::span{data}})));
    for (u64 k = 0; k < 64; k++)
      if (load_le<u32>(&data[k * sector]) != model.now(at + k))
        test::failed(
            "read", __FILE__, __LINE__,
            format("{} step {}: sector {} holds {:#x}, not {:#x}", name, i, at + k, load_le<u32>(&data[k * sector]), model.now(at + k)));
  }
  bool on_backing = false;
  u32 base_tag(u64 s) const { return on_backing ? static_cast<u32>(0x4000'0000 + s) : Model::zero; }
};

void compare(Bench& bench, const Model& model, const char* where, bool exactly) {
  std::vector<u8> all(model.sectors.size() * sector);
  OK(bench.run(bench.edge->read(0, IoVector{std::span{all}})));
  for (u64 s = 0; s < model.sectors.size(); s++) {
    const u32 tag = load_le<u32>(&all[s * sector]);
    bool uniform = true;
    for (u64 i = 0; i < sector; i += 4) uniform &= load_le<u32>(&all[s * sector + i]) == tag;
    const auto& m = model.sectors[s];
    bool good = uniform && (exactly ? tag == model.now(s) : tag == m.sure || std::ranges::find(m.maybe, tag) != m.maybe.end());
    if (!good)
      test::failed(
          "contents", __FILE__, __LINE__,
          format("{}: sector {} holds {:#x}, not {:#x} (sure {:#x}, {} since)", where, s, tag, model.now(s), m.sure, m.maybe.size()));
  }
}
void expect_clean(Bench& bench, const char* where, bool leaks_allowed) {
  const auto r = OK(bench.run(bench.image().check(qcow2::Repair::none)));
  if (r.corruptions || r.errors || (!leaks_allowed && r.leaks))
    test::failed("check", __FILE__, __LINE__,
                 format("{}: {} corruptions, {} leaks, {} errors: {}", where, r.corruptions, r.leaks, r.errors,
                        r.messages.empty() ? "" : r.messages[0]));
}

u64 wanted_runs(u64 by_default) { return number_from("VMM_POWER_CUTS", by_default); }

}  // namespace

TEST(qcow2_holds_what_was_written_in_every_flavour) {
  for (u64 seed = 0; seed < wanted_runs(100) / 50; seed++)
    for (const Flavour& f : flavours()) {
      make_base(disk_bytes);
      Bench bench;
      OK(bench.create("image", disk_bytes, f.options));
      OK(bench.open("image"));
      Model model;
      model.sectors.resize(disk_bytes / sector);
      Script script{bench, model, std::mt19937_64{7 + seed}, disk_bytes};
      script.snapshots = std::string_view{f.name} != "narrow counts";
      script.on_backing = f.backing;
      for (u64 s = 0; s < model.sectors.size(); s++) model.sectors[s].sure = script.base_tag(s);
      for (int i = 0; i < 150; i++) script.step(), script.look(f.name, i);
      compare(bench, model, f.name, true);
      for (const auto& [name, contents] : script.saved)
        for (const qcow2::Snapshot& known : bench.image().snapshots())
          if (known.name == name) script.look_at_state(name, known.vm_state_bytes);
      bench.close();
      OK(bench.open("image"));
      compare(bench, model, f.name, true);
      expect_clean(bench, f.name, false);
    }
}

TEST(qcow2_survives_power_cuts) {
  const u64 runs = wanted_runs(vmm::test::rounds(100)), first = number_from("VMM_POWER_CUTS_FIRST", 0);
  const auto all = flavours();
  u64 leaks = 0, most = 0, counted = 0;
  for (u64 n = first; n < first + runs; n++) {
    const Flavour& f = all[n % all.size()];
    std::mt19937_64 random{n + 1};
    make_base(disk_bytes);
    std::vector<u8> start;
    Model model;
    std::vector<Disk::Op> log;
    {
      Bench bench;
      OK(bench.create("image", disk_bytes, f.options));
      start = disks()["image"].bytes;
      OK(bench.open("image"));
      model.sectors.resize(disk_bytes / sector);
      Script script{bench, model, std::mt19937_64{n + 1000}, disk_bytes};
      script.snapshots = std::string_view{f.name} != "narrow counts";
      script.on_backing = f.backing;
      for (u64 s = 0; s < model.sectors.size(); s++) model.sectors[s].sure = script.base_tag(s);
      disks()["image"].recording = true;
      // The cut is in the last step: the model knows what was sure before it, and what may be there.
      const int steps = 1 + static_cast<int>(random() % 60);
      for (int i = 0; i < steps; i++) script.step();
      const usize before = disks()["image"].log.size();
      Model sure = model;
      script.step();
      for (u64 s = 0; s < sure.sectors.size(); s++) {
        auto& m = sure.sectors[s];
        const auto& after = model.sectors[s];
        m.maybe.insert(m.maybe.end(), after.maybe.begin(), after.maybe.end());
        m.maybe.push_back(after.sure);
      }
      model = std::move(sure);
      log = disks()["image"].log;
      disks()["image"].recording = false;
      const usize cut = before + random() % (log.size() - before + 1);
      start = Disk::after_cut(std::move(start), log, cut, random);
    }
    disks()["image"].bytes = std::move(start);
    disks()["image"].log.clear();
    const std::string where = format("run {} ({})", n, f.name);
    Bench bench;
    OK(bench.open("image", Value{Value::Members{{"read-only", Value{true}}}}));
    const bool dirty = bench.image().marked_dirty();
    bool flags = false;
    if (!dirty) {
      const auto r = OK(bench.run(bench.image().check(qcow2::Repair::none)));
      // Version 2 has no dirty mark: a cut in the middle of a snapshot leaves flags that say "shared" of what is not. That costs a copy at
      // the next write, and no data; everything else is a corruption.
      const bool harmless = f.options.find("compat") && std::ranges::all_of(r.messages, [](const std::string& m) {
                              return m.starts_with("Leaked") || (m.contains("OFLAG_COPIED") && m.ends_with("refcount=1"));
                            });
      if (r.corruptions && !harmless)
        test::failed("check", __FILE__, __LINE__,
                     format("{}: {} corruptions: {}", where, r.corruptions, r.messages.empty() ? "" : r.messages[0]));
      flags = r.corruptions != 0;
      if (!f.options.find("compat")) leaks += r.leaks, most = std::max(most, r.leaks), counted++;
    }
    compare(bench, model, where.c_str(), false);
    bench.close();
    OK(bench.open("image", Value{Value::Members{{"inspect", Value{true}}}}));
    OK(bench.run(bench.image().check(dirty || flags ? qcow2::Repair::all : qcow2::Repair::leaks)));
    bench.close();
    OK(bench.open("image"));
    expect_clean(bench, where.c_str(), false);
    compare(bench, model, where.c_str(), false);
  }
  CHECK(most <= 3);
  std::printf("power cuts: %llu, leaked clusters %llu, at most %llu a cut\n", static_cast<unsigned long long>(runs),
              static_cast<unsigned long long>(leaks), static_cast<unsigned long long>(most));
}

TEST(qcow2_write_errors_lose_nothing_that_was_flushed) {
  for (const Flavour& f : flavours()) {
    for (const u64 after : {3, 17, 40}) {
      make_base(disk_bytes);
      Bench bench;
      OK(bench.create("image", disk_bytes, f.options));
      OK(bench.open("image"));
      std::vector<u8> data(200 * KiB, 0x5a);
      OK(bench.run(bench.edge->write(4096, IoVector{std::span{data}})));
      OK(bench.run(bench.edge->flush()));
      disks()["image"].fail_after = after;
      for (u64 i = 0; i < 12; i++)
        (void)bench.run(bench.edge->write((i * 83 * KiB) % (disk_bytes - 64 * KiB), IoVector{std::span{data}.first(50 * KiB)}));
      (void)bench.run(bench.edge->flush());
      disks()["image"].fail_after = ~u64{0};
      OK(bench.run(bench.edge->write(600 * KiB, IoVector{std::span{data}.first(64 * KiB)})));
      OK(bench.run(bench.edge->flush()));
      std::vector<u8> back(200 * KiB);
      OK(bench.run(bench.edge->read(4096, IoVector{std::span{back}})));
      CHECK(back == data);
      bench.close();
      OK(bench.open("image"));
      const auto r = OK(bench.run(bench.image().check(qcow2::Repair::none)));
      if (r.corruptions) test::failed("check", __FILE__, __LINE__, format("{} after {}: {}", f.name, after, r.messages[0]));
    }
  }
}

TEST(qcow2_serves_many_at_once_with_the_smallest_caches) {
  Bench bench;
  OK(bench.create("image", 64 * MiB, tree({{"cluster_size", "512"}})));
  OK(bench.open("image", tree({{"cache-size", "64k"}})));
  struct Worker {
    Bench& bench;
    u64 lane;
    std::mt19937_64 random;
    std::map<u64, u32> held{};
    bool bad = false;
    // Each has every 8th KiB for itself.
    static Task<> run(Worker& w, u64& left) {
      Edge& e = *w.bench.edge;
      for (int i = 0; i < 150; i++) {
        const u64 at = (w.random() % (60 * MiB / 8192) * 8 + w.lane) * 1024;
        std::vector<u8> data(1024);
        const u64 kind = w.random() % 10;
        if (kind < 5) {
          fill(data, static_cast<u32>(at + static_cast<u64>(i)));
          co_await e.write(at, IoVector{std::span{data}});
          w.held[at] = static_cast<u32>(at + static_cast<u64>(i));
        } else if (kind < 7 && !w.held.empty()) {
          co_await e.discard(w.held.begin()->first, 1024);
          w.held.erase(w.held.begin());
        } else if (kind < 8) {
          co_await e.flush();
        } else if (!w.held.empty()) {
          auto which = w.held.begin();
          std::advance(which, static_cast<i64>(w.random() % w.held.size()));
          co_await e.read(which->first, IoVector{std::span{data}});
          w.bad |= load_le<u32>(data.data()) != which->second;
        }
        co_await switch_to(w.bench.loop);
      }
      left--;
      co_return Result<>{};
    }
  };
  std::vector<Worker> workers;
  for (u64 lane = 0; lane < 8; lane++) workers.push_back({bench, lane, std::mt19937_64{lane}});
  u64 left = workers.size(), failed = 0;
  for (Worker& w : workers) Worker::run(w, left).start([&](Result<> r) { failed += !r; });
  const auto busy = [&] { return left && !failed; };
  for (u64 turns = 0; busy(); turns++) {
    bench.loop.run_once(false);
    CHECK(turns < 5'000'000);
  }
  CHECK_EQ(failed, 0u);
  for (const Worker& w : workers) CHECK(!w.bad);
  for (const Worker& w : workers)
    for (const auto& [at, tag] : w.held) {
      std::vector<u8> data(1024);
      OK(bench.run(bench.edge->read(at, IoVector{std::span{data}})));
      CHECK_EQ(load_le<u32>(data.data()), tag);
    }
  bench.close();
  OK(bench.open("image"));
  expect_clean(bench, "many at once", false);
}

TEST(qcow2_grows_and_shrinks) {
  for (const char* cluster : {"512", "4k", "64k"}) {
    Bench bench;
    OK(bench.create("image", 3 * MiB, tree({{"cluster_size", cluster}})));
    OK(bench.open("image"));
    std::vector<u8> data(3 * MiB, 0x77);
    OK(bench.run(bench.edge->write(0, IoVector{std::span{data}})));
    OK(bench.run(bench.edge->truncate(1 * MiB + 512)));
    OK(bench.run(bench.edge->truncate(40 * MiB)));
    CHECK_EQ(bench.edge->length_bytes(), 40 * MiB);
    std::vector<u8> back(3 * MiB);
    OK(bench.run(bench.edge->read(0, IoVector{std::span{back}})));
    for (u64 i = 0; i < back.size(); i++) CHECK(back[i] == (i < 1 * MiB + 512 ? 0x77 : 0));
    OK(bench.run(bench.edge->write(40 * MiB - data.size(), IoVector{std::span{data}})));
    bench.close();
    OK(bench.open("image"));
    OK(bench.run(bench.edge->read(40 * MiB - data.size(), IoVector{std::span{back}})));
    CHECK(back == data);
    expect_clean(bench, cluster, false);
  }
}

TEST(qcow2_compresses_and_packs) {
  for (const char* type : {"zlib", "zstd"}) {
    Bench bench;
    OK(bench.create("image", 4 * MiB, tree({{"compression_type", type}})));
    OK(bench.open("image"));
    std::vector<u8> data(4 * MiB);
    for (u64 i = 0; i < data.size(); i++) data[i] = static_cast<u8>(i / 97 ^ i >> 13);
    OK(bench.run(bench.edge->write(0, IoVector{std::span{data}}, {.compressed = true})));
    OK(bench.run(bench.edge->write(100'000, IoVector{std::span{data}.first(70'000)})));
    std::copy_n(data.begin(), 70'000, data.begin() + 100'000);
    bench.close();
    CHECK(disks()["image"].bytes.size() < 2 * MiB);
    OK(bench.open("image"));
    std::vector<u8> back(4 * MiB);
    OK(bench.run(bench.edge->read(0, IoVector{std::span{back}})));
    CHECK(back == data);
    expect_clean(bench, type, false);
  }
}

TEST(qcow2_refuses_and_marks_what_does_not_agree) {
  Bench bench;
  OK(bench.create("image", 4 * MiB, tree({})));
  OK(bench.open("image"));
  std::vector<u8> data(64 * KiB, 1);
  OK(bench.run(bench.edge->write(0, IoVector{std::span{data}})));
  bench.close();
  // The L1 entry points between clusters.
  Disk& disk = disks()["image"];
  store_be(&disk.bytes[0x30000], u64{0x8000'0000'0004'0200});
  OK(bench.open("image"));
  CHECK(!bench.run(bench.edge->read(0, IoVector{std::span{data}})));
  CHECK(!bench.run(bench.edge->write(0, IoVector{std::span{data}})));
  bench.close();
  CHECK(disk.bytes[79] & qcow2::feature::corrupt);
  CHECK(!bench.open("image"));
  OK(bench.open("image", Value{Value::Members{{"inspect", Value{true}}}}));
  OK(bench.run(bench.image().check(qcow2::Repair::all)));
  bench.close();
  OK(bench.open("image"));
  expect_clean(bench, "repaired", false);
}

TEST(qcow2_writes_no_data_over_metadata) {
  // The only data cluster's entry is bent to each table in turn: the write is refused, and the image says so to others.
  struct {
    u64 place;
    const char* what;
  } targets[] = {{0x10000, "refcount table"}, {0x20000, "refcount block"}, {0x30000, "active L1 table"}, {0x40000, "active L2 table"}};
  for (const auto& [place, what] : targets) {
    Bench bench;
    OK(bench.create("image", 4 * MiB, tree({})));
    OK(bench.open("image"));
    std::vector<u8> data(64 * KiB, 1);
    OK(bench.run(bench.edge->write(0, IoVector{std::span{data}})));
    bench.close();
    Disk& disk = disks()["image"];
    const u64 table = load_be<u64>(&disk.bytes[0x30000]) & qcow2::offset_mask;
    store_be(&disk.bytes[table], 0x8000'0000'0000'0000 | (place == 0x40000 ? table : place));
    const std::vector<u8> before = disk.bytes;
    OK(bench.open("image"));
    const auto refused = bench.run(bench.edge->write(0, IoVector{std::span{data}}));
    CHECK(!refused);
    if (!refused && !refused.error().message.contains(what)) test::failed("message", __FILE__, __LINE__, refused.error().message);
    bench.close();
    CHECK(disk.bytes[79] & qcow2::feature::corrupt);
    disk.bytes[79] = before[79];
    CHECK(disk.bytes == before);
    // Who wants none gets none.
    OK(bench.open("image", tree({{"overlap-check", "none"}})));
    OK(bench.run(bench.edge->write(0, IoVector{std::span{data}})));
    bench.close();
  }
}

TEST(qcow2_keeps_bitmaps_and_records_in_them) {
  Bench bench;
  OK(bench.create("image", 8 * MiB, tree({})));
  OK(bench.open("image"));
  OK(bench.run(bench.image().add_bitmap("daily", 65536, true)));
  CHECK(!bench.run(bench.image().add_bitmap("daily", 65536, true)));
  bench.close();
  OK(bench.open("image"));
  std::vector<u8> data(1000, 1);
  OK(bench.run(bench.edge->write(5 * 65536 + 100, IoVector{std::span{data}})));
  bench.close();
  OK(bench.open("image"));
  const auto bits = OK(bench.run(bench.image().load_bitmap("daily")));
  CHECK_EQ(bits.size(), 16u);
  CHECK_EQ(bits[0], 1 << 5);
  expect_clean(bench, "bitmaps", false);
  OK(bench.run(bench.image().remove_bitmap("daily")));
  bench.close();
  OK(bench.open("image"));
  expect_clean(bench, "bitmaps removed", false);
}

}  // namespace vmm::block
