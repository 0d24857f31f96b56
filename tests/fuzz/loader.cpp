// What loads a machine, over every registered device: parts with right sums and any contents. Input: the name of a device type and a
// newline, then parts: a byte of kind, two of length, so many bytes; kind 0 is the device's own section with one field replaced by CBOR.
#include <algorithm>

#include "migration/machine_in.h"
#include "src/value/cbor.h"
#include "src/vm/state.h"
#include "tests/fuzz/support/bench_types.h"
#include "tests/fuzz/support/input.h"
#include "tests/unit/hw/bench_chardev.h"
#include "tests/unit/hw/bench_disk.h"

using namespace vmm;

extern "C" int LLVMFuzzerTestOneInput(const u8* data, size_t size) {
  fuzz::Input in{data, size};
  const TypeInfo& type = fuzz::choose_type(in.line());
  test::DeviceBench bench;
  const test::HostEnd host{"conformance"};
  const test::BenchDisk disk{bench, "conformance"};
  const auto made = hw::create_device(bench.machine(), test::sample_spec(type));
  if (!made) test::failed(std::string{type.name}.c_str(), __FILE__, __LINE__, made.error().message);
  const Ref<hw::Device> device = *made;
  device->reset_tree();
  const std::string path = device->path();

  migration::MachineIn machine{bench.machine(), true};
  std::vector<u8> payload;
  bool replaced = false;
  const auto section = [&](std::string_view name, Value state) {
    payload = to_cbor(Value::object().set("name", name).set("state", std::move(state)));
    return machine.take({migration::Part::section, payload}).has_value();
  };
  for (unsigned steps = 0; in.more() && steps < 64; steps++) {
    const u8 kind = in.take<u8>() % 9;
    const u8 which = in.take<u8>();
    std::vector<u8> bytes(in.take<u16>() % 2048);
    for (u8& b : bytes) b = in.take<u8>();
    if (kind) {
      static_cast<void>(machine.take({static_cast<migration::Part>(kind), bytes}));
      continue;
    }
    if (std::exchange(replaced, true)) continue;
    Value state = device->save();
    auto value = parse_cbor(bytes);
    if (value && !state.members().empty()) state.set(state.members()[which % state.members().size()].first, std::move(*value));
    section(path, Value::object().set("type", type.name).set("state", std::move(state)));
  }
  // The others' own sections, so that all are there.
  for (const vm::StateSection& s : vm::state_sections(bench.machine()).sections)
    if (!(replaced && s.name == path)) section(s.name, s.save());
  bench.clock().stop_guest_clock();
  static_cast<void>(machine.commit());
  bench.clock().start_guest_clock();
  bench.advance(Nanoseconds{1'000'000});
  device->reset_tree();
  device->detach().start([](Result<>) {});
  return 0;
}
