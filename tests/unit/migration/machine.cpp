// A machine of a few devices goes into a stream and comes back; each thing that may be wrong with a section is named.
#include "migration/lanes.h"
#include "src/base/bits.h"
#include "src/value/cbor.h"
#include "src/vm/state.h"
#include "tests/unit/hw/bench.h"
#include "tests/unit/migration/memory.h"

namespace vmm::test {
namespace {

using migration::Part;

Memory saved(DeviceBench& bench, const std::function<void(Value&)>& change = {}) {
  Memory m;
  migration::Writer writer{m};
  migration::MachineOut out{bench.machine()};
  out.begin();
  OK(out.write_machine(writer, 0));
  std::vector<u8> room;
  OK(out.send_due([&](u32 block, u64 first, u64 count) { return writer.part(Part::pages, out.build_pages(block, first, count, room)); }));
  CHECK(out.due_pages() == 0);
  for (const vm::StateSection& s : vm::state_sections(bench.machine()).sections) {
    Value section = Value::object().set("name", s.name).set("state", s.save());
    if (change) change(section);
    if (!section.is_null()) OK(writer.described(Part::section, section));
  }
  OK(writer.part(Part::end, std::span<const u8>{}));
  return m;
}
Result<> load(DeviceBench& bench, Memory m, vm::Status* status = nullptr) {
  migration::Reader reader{m};
  migration::MachineIn in{bench.machine(), true};
  TRY(in.begin(reader));
  for (;;) {
    const auto part = TRY(reader.next());
    if (part.kind == Part::end) break;
    TRY(in.take(part));
  }
  if (status) *status = in.status();
  bench.clock().stop_guest_clock();  // the machine stands
  auto done = in.commit();
  bench.clock().start_guest_clock();
  return done;
}

}  // namespace

TEST(a_machine_comes_back_from_its_stream) {
  DeviceBench bench{"isa-serial"};
  bench.write64(0x1000, 0x1122334455667788);
  bench.out8(0x3ff, 0x5a);
  const Memory stream = saved(bench);
  bench.write64(0x1000, 0);
  bench.write64(0x3000, 1);
  bench.out8(0x3ff, 0);
  OK(load(bench, stream));
  CHECK(bench.read64(0x1000) == 0x1122334455667788 && bench.read64(0x3000) == 0);
  CHECK(bench.in8(0x3ff) == 0x5a);
}

TEST(a_section_that_lacks_a_field_is_refused_by_name) {
  DeviceBench bench{"isa-serial"};
  const std::string path = bench.device().path();
  for (const auto& [name, value] : bench.device().save().members()) {
    const auto done = load(bench, saved(bench, [&](Value& section) {
                             if (section.find("name")->get_string() != path) return;
                             Value outer = *section.find("state"), inner = *outer.find("state");
                             inner.erase(name);
                             outer.set("state", inner);
                             section.set("state", outer);
                           }));
    if (done) continue;  // fields that older versions lacked
    CHECK(done.error().message.contains(path) && done.error().message.contains(name));
  }
}

TEST(a_section_too_many_or_too_few_is_named) {
  DeviceBench bench{"isa-serial"};
  const std::string path = bench.device().path();
  const auto missing = load(bench, saved(bench, [&](Value& section) {
                              if (section.find("name")->get_string() == path) section = Value{};
                            }));
  CHECK(!missing && missing.error().message.contains(path) && missing.error().message.contains("missing"));
  const auto unknown = load(bench, saved(bench, [&](Value& section) {
                              if (section.find("name")->get_string() == path) section.set("name", "/machine/other");
                            }));
  CHECK(!unknown);
  const auto other = load(bench, saved(bench, [&](Value& section) {
                            if (section.find("name")->get_string() != path) return;
                            Value outer = *section.find("state");
                            outer.set("type", "isa-parallel");
                            section.set("state", outer);
                          }));
  CHECK(!other && other.error().message.contains("isa-parallel"));
}

TEST(a_stream_says_whether_its_machine_ran) {
  DeviceBench bench{"isa-serial"};
  for (const auto& [word, ok] : {std::pair{"io-error", true}, {"paused", true}, {"nonsense", false}}) {
    Memory m = saved(bench);
    Memory tail;
    migration::Writer writer{tail};
    OK(writer.head());
    OK(writer.described(Part::section, Value::object().set("name", "run-state").set("state", Value::object().set("status", word))));
    migration::Reader reader{tail};
    OK(reader.head());
    migration::MachineIn in{bench.machine(), true};
    const auto taken = in.take(OK(reader.next()));
    CHECK(taken.has_value() == ok);
    if (ok) CHECK(vm::status_name(in.status()) == word);
  }
}

TEST(pages_beyond_ram_are_refused) {
  DeviceBench bench;
  Memory m = saved(bench);
  migration::Reader reader{m};
  migration::MachineIn in{bench.machine(), true};
  OK(in.begin(reader));
  std::vector<u8> payload(16 + 1 + 4096);
  const auto pages = [&](u32 block, u32 count, u64 first) {
    store_le<u32>(&payload[0], block), store_le<u32>(&payload[4], count), store_le<u64>(&payload[8], first);
    payload[16] = 1;
    return in.take_pages(payload).has_value();
  };
  CHECK(pages(0, 1, 0));
  CHECK(!pages(0, 0, 0) && !pages(0, 2, ~u64{0}) && !pages(0, 1, u64{1} << 52) && !pages(9999, 1, 0) && !pages(0, 257, 0));
  payload.pop_back();
  CHECK(!pages(0, 1, 0));
  payload.assign(3, 0);
  CHECK(!in.take_pages(payload));
  CHECK(!in.take({Part::packed, payload}));
}

}  // namespace vmm::test
