// Power cuts of a qcow2 image under many requests at once, whose parts reach the file in any order: what a flush made sure of before it
// ended is there, of everything else the old or the new, and the tables are whole.
#include "tests/unit/block/format/qcow2_bench.h"
#include "tests/unit/block/recorder.h"

namespace vmm {
namespace {
using namespace block;
using namespace block::qcow2_bench;
using block::test::make_recorder;
using block::test::Recorder;

constexpr u64 lanes = 6, lane_sectors = 48;  // the disk goes round in parts of 48 sectors, so that lanes meet within clusters

// The history of one sector. Moments are counted by every beginning and every end of a request; places are in the recorder's log.
struct Change {
  u32 tag;
  u64 ended;                 // moment; none: ~0
  usize issued;              // place in the log when the request came
  usize stable = ~usize{0};  // place in the log when a write that was to be stable ended
};
struct Flush {
  u64 began;
  usize ended;  // place
};

struct Load {
  Bench& bench;
  Recorder& file;
  std::vector<std::vector<Change>> sectors;
  std::vector<Flush> flushes;
  u64 moment = 0, left = lanes;
  u32 tag = 100;

  u32 now(u64 s) const { return sectors[s].back().tag; }
  // What a sector may hold after a cut at that place of the log.
  std::vector<u32> possible(u64 s, usize cut) const {
    std::vector<u32> found;
    for (const Change& c : sectors[s]) {
      const bool sure =
          c.stable <= cut || std::ranges::any_of(flushes, [&](const Flush& f) { return f.ended <= cut && c.ended < f.began; });
      if (sure) found.clear();
      if (sure || c.issued <= cut) found.push_back(c.tag);
    }
    return found;
  }
};

struct Lane {
  Load& load;
  u64 number;
  std::mt19937_64 random;

  static Task<> run(Lane& lane, int steps) {
    Load& load = lane.load;
    Edge& e = *load.bench.edge;
    const u64 parts = disk_bytes / sector / (lanes * lane_sectors);
    for (int i = 0; i < steps; i++) {
      const u64 part = (lane.random() % parts * lanes + lane.number) * lane_sectors, from = lane.random() % lane_sectors;
      const u64 n = 1 + lane.random() % (lane_sectors - from), at = part + from, kind = lane.random() % 100;
      std::vector<u8> data(n * sector);
      if (kind < 60) {
        for (u64 k = 0; k < n; k++) {
          fill(std::span{data}.subspan(k * sector, sector), ++load.tag);
          load.sectors[at + k].push_back({load.tag, ~u64{0}, load.file.log.size()});
        }
        const bool fua = kind < 5;
        co_await e.write(at * sector, IoVector{std::span{data}}, {.fua = fua});
        const u64 ended = ++load.moment;
        for (u64 k = 0; k < n; k++) {
          Change& c = load.sectors[at + k].back();
          c.ended = ended;
          if (fua) c.stable = load.file.log.size();
        }
      } else if (kind < 70) {
        for (u64 k = 0; k < n; k++) load.sectors[at + k].push_back({0, ~u64{0}, load.file.log.size()});
        co_await e.zero(at * sector, n * sector, {.may_unmap = kind < 65});
        const u64 ended = ++load.moment;
        for (u64 k = 0; k < n; k++) load.sectors[at + k].back().ended = ended;
      } else if (kind < 80) {
        // Old or zeros; what is read afterwards is the truth. Nobody else changes these sectors meanwhile.
        const usize issued = load.file.log.size();
        for (u64 k = 0; k < n; k++) {
          const u32 before = load.now(at + k);
          load.sectors[at + k].push_back({0, ~u64{0}, issued});
          load.sectors[at + k].push_back({before, ~u64{0}, issued});
        }
        co_await e.discard(at * sector, n * sector);
        co_await e.read(at * sector, IoVector{std::span{data}});
        const u64 ended = ++load.moment;
        for (u64 k = 0; k < n; k++) {
          auto& changes = load.sectors[at + k];
          const u32 read = load_le<u32>(&data[k * sector]), before = changes.back().tag;
          if (read != 0 && read != before) vmm::test::failed("discard", __FILE__, __LINE__, format("sector {} holds {:#x}", at + k, read));
          changes.push_back({read, ended, issued});
        }
      } else if (kind < 88) {
        co_await e.read(at * sector, IoVector{std::span{data}});
        for (u64 k = 0; k < n; k++)
          if (load_le<u32>(&data[k * sector]) != load.now(at + k))
            vmm::test::failed("read", __FILE__, __LINE__,
                              format("sector {} holds {:#x}, not {:#x}", at + k, load_le<u32>(&data[k * sector]), load.now(at + k)));
      } else {
        const u64 began = ++load.moment;
        co_await e.flush();
        load.flushes.push_back({began, load.file.log.size()});
      }
    }
    load.left--;
    co_return Result<>{};
  }
};

// What is there after a cut, and after the repair that the next start makes. Returns how many clusters leaked (none counted where the image
// is marked as one whose counts are not to be believed).
u64 look(std::vector<u8> image, const Load& load, usize cut, const Flavour& flavour, const std::string& where) {
  disks()["image"].bytes = std::move(image);
  Bench bench;
  const auto compare = [&](const char* when) {
    std::vector<u8> all(disk_bytes);
    OK(bench.run(bench.edge->read(0, IoVector{std::span{all}})));
    for (u64 s = 0; s < disk_bytes / sector; s++) {
      const std::span<const u8> bytes = std::span{all}.subspan(s * sector, sector);
      const u32 tag = load_le<u32>(bytes.data());
      bool uniform = true;
      for (u64 i = 0; i < sector; i += 4) uniform &= load_le<u32>(&bytes[i]) == tag;
      const auto possible = load.possible(s, cut);
      if (!uniform || std::ranges::find(possible, tag) == possible.end())
        vmm::test::failed("contents", __FILE__, __LINE__,
                          format("{}, {}: sector {} holds {:#x}{}, one of {} was due, first {:#x}, last {:#x}", where, when, s, tag,
                                 uniform ? "" : " and others", possible.size(), possible.front(), possible.back()));
    }
  };
  const auto check = [&](const char* when) {
    const auto r = OK(bench.run(bench.image().check(qcow2::Repair::none)));
    if (r.corruptions || r.errors)
      vmm::test::failed("check", __FILE__, __LINE__,
                        format("{}, {}: {} corruptions: {}", where, when, r.corruptions, r.messages.empty() ? "" : r.messages[0]));
    return r.leaks;
  };
  OK(bench.open("image", Value{Value::Members{{"read-only", Value{true}}}}));
  const bool dirty = bench.image().marked_dirty();
  u64 leaks = dirty ? 0 : check("as found");
  if (flavour.options.find("compat")) leaks = 0;  // version 2 has no mark, and leaks what a cycle had claimed
  compare("as found");
  bench.close();
  OK(bench.open("image", Value{Value::Members{{"inspect", Value{true}}}}));
  OK(bench.run(bench.image().check(dirty ? qcow2::Repair::all : qcow2::Repair::leaks)));
  bench.close();
  OK(bench.open("image"));
  CHECK_EQ(check("mended"), 0u);
  compare("mended");
  return leaks;
}

}  // namespace

TEST(qcow2_survives_power_cuts_under_many_requests) {
  const u64 runs = number_from("VMM_POWER_CUTS", vmm::test::rounds(60)), first = number_from("VMM_POWER_CUTS_FIRST", 0);
  constexpr u64 cuts = 5;  // of one history
  const auto all = flavours();
  u64 sum = 0, most = 0;
  for (u64 n = first / cuts; n < (first + runs) / cuts; n++) {
    const Flavour& flavour = all[n % all.size()];
    std::mt19937_64 random{n + 77};
    make_base(disk_bytes);
    Bench bench;
    OK(bench.create("image", disk_bytes, flavour.options));
    auto file = make_recorder(bench.loop, "under", std::move(disks()["image"].bytes));
    Value options = Value::object();
    options.set("driver", Value{"qcow2"}).set("discard", Value{"unmap"}).set("file", Value{"under"});
    if (n % 3 == 0) options.set("cache-size", Value{"64k"});
    {
      NodeRef node = OK(bench.run(open_node(bench.loop, std::move(options))));
      bench.edge = OK(Edge::make(node, "root", "the test", Role::user, permit_all, permit_all));
    }
    file->slow = true, file->most_turns = 1 + static_cast<u32>(random() % 12);
    Load load{bench, *file, {}, {}};
    load.sectors.resize(disk_bytes / sector);
    for (u64 s = 0; s < load.sectors.size(); s++)
      load.sectors[s].push_back({flavour.backing ? static_cast<u32>(0x4000'0000 + s) : 0, 0, 0, 0});
    std::vector<Lane> running;
    for (u64 lane = 0; lane < lanes; lane++) running.push_back({load, lane, std::mt19937_64{n * lanes + lane}});
    u64 failed = 0;
    for (Lane& lane : running) Lane::run(lane, 30).start([&](Result<> r) { failed += !r; });
    for (u64 turns = 0; load.left && !failed; turns++) {
      bench.loop.run_once(false);
      CHECK(turns < 5'000'000);
    }
    CHECK_EQ(failed, 0u);
    CHECK_EQ(file->overlapping_writes, 0u);
    for (u64 c = 0; c < cuts; c++) {
      const usize cut = random() % (file->log.size() + 1);
      const u64 leaks = look(file->after_cut(cut, random), load, cut, flavour, format("history {} ({}), cut {}", n, flavour.name, cut));
      sum += leaks, most = std::max(most, leaks);
    }
    bench.close();
    OK(bench.run(release(std::move(file))));
  }
  CHECK(most <= 3);
  std::printf("power cuts under load: %llu, leaked clusters %llu, at most %llu a cut\n",
              static_cast<unsigned long long>(runs / cuts * cuts), static_cast<unsigned long long>(sum),
              static_cast<unsigned long long>(most));
}

}  // namespace vmm
