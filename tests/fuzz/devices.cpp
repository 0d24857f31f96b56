// Every registered device on a bench: register traffic of any kind, time passing, resets, characters from outside, damaged streams.
// Input: the name of a type and a newline (an unknown one picks a type by its sum), then operations of 1 + n bytes.
#include <algorithm>
#include <map>
#include <numeric>

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
  u8 slot = 0;
  std::vector<u64> pages;
  const auto* pci = dynamic_cast<hw::PciDevice*>(device.get());
  if (pci) {
    slot = static_cast<u8>(pci->devfn() >> 3);
    for (const u64 bar : bench.place_bars(slot))
      if (bar >= 0x10000) pages.push_back(bar);
  }
  // Where a type's ports are does not change from bench to bench.
  static auto& ports_of = *new std::map<const TypeInfo*, std::vector<u16>>;
  std::vector<u16>& ports = ports_of[&type];
  for (u32 port = 0; ports.empty() && port < 0x10000; port++)
    while (port < 0x10000 && bench.machine().ports().view()->find(port)) ports.push_back(static_cast<u16>(port++));
  const Value state = device->save();

  const auto access = [&](u8 op) {
    const unsigned bytes = 1u << (op >> 3 & 3);
    const u16 where = in.take<u16>();
    const bool memory = !pages.empty() && (ports.empty() || op & 0x20);
    if (!memory && ports.empty()) return;
    const GuestPhys at{memory ? pages[where % pages.size()] + where / pages.size() : ports[where % ports.size()]};
    auto& space = memory ? bench.machine().memory() : bench.machine().ports();
    if (op & 0x40)
      space.store(at, bytes, op & 0x80 ? in.take<u64>() : in.take<u8>());
    else
      space.load(at, bytes);
  };
  for (unsigned steps = 0; in.more() && steps < 4096; steps++) {
    const u8 op = in.take<u8>();
    switch (op & 7) {
      default: access(op); break;
      case 4: bench.advance(Nanoseconds{in.take<u32>() % 50'000'000}); break;
      case 5:
        if (pci) {
          const u16 at = in.take<u8>() | (op & 0x80 ? 0x100 : 0);
          const unsigned bytes = 1u << (op >> 3 & 3) & 7;
          if (op & 0x40)
            bench.config_write(slot, at, bytes ? bytes : 1, in.take<u32>());
          else
            bench.config_read(slot, at, bytes ? bytes : 1);
        }
        break;
      case 6: bench.write32(in.take<u16>() & 0xfffc, in.take<u32>()); break;  // guest memory that the device may read
      case 7:
        if (op & 0x80) {
          device->reset_tree();
        } else if (op & 0x40) {
          host->feed(std::string(1 + in.take<u8>() % 64, static_cast<char>(in.take<u8>())));
        } else if (op & 0x20) {
          host->make_room(in.take<u8>());
        } else if (!state.members().empty()) {
          const auto& [name, value] = state.members()[op / 8 % state.members().size()];
          Value broken = state;
          broken.set(name, in.take<u64>());
          (void)device->load(broken);
        }
    }
  }
  device->describe();
  bool gone = false;
  device->detach().start([&](Result<> done) { gone = done.has_value(); });
  if (!gone) test::failed(std::string{type.name}.c_str(), __FILE__, __LINE__, "did not leave");
  return 0;
}
