// The conformance walk: every device type that can be made is made, introspected, realized (by its `.sample` where it needs links), reset,
// saved, loaded, saved equal, unrealized and destroyed. A new device is tested before its author writes a line.
#include <cstdlib>

#include "tests/unit/hw/bench_chardev.h"
#include "tests/unit/hw/bench_disk.h"

namespace vmm::test {

namespace {

// A guest that does anything: accesses at random to all that is mapped, time passing in between. VMM_HAMMER sets the number.
void hammer(DeviceBench& bench, const std::array<u64, 6>& bars) {
  u64 seed = 88172645463325252ull;
  const auto random = [&] { return seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17; };
  std::vector<u16> ports;
  for (u32 port = 0; port < 0x10000; port++)
    if (bench.machine().ports().view()->find(port)) ports.push_back(static_cast<u16>(port));
  std::vector<u64> pages;
  for (const u64 bar : bars)
    if (bar >= 0x10000) pages.push_back(bar);
  const char* wanted = getenv("VMM_HAMMER");
  for (u64 left = wanted ? strtoull(wanted, nullptr, 10) : rounds(20'000); left > 0; left--) {
    const u64 r = random();
    const unsigned size = 1u << (r & 3);
    const bool memory = !pages.empty() && (ports.empty() || r & 4);
    if (!memory && ports.empty()) return;
    const GuestPhys at{memory ? pages[(r >> 8) % pages.size()] + ((r >> 16) & 0xfff) : ports[(r >> 8) % ports.size()]};
    memory::AddressSpace& space = memory ? bench.machine().memory() : bench.machine().ports();
    if (r & 8)
      space.load(at, size);
    else
      space.store(at, size, r & 16 ? random() : random() & 0xff);
    if ((r & 0xff00'0000) == 0) bench.advance(Nanoseconds{static_cast<i64>(random() % 3'000'000)});
  }
}

void walk(const TypeInfo& type) {
  DeviceBench bench;
  const HostEnd host{"conformance"};
  const BenchDisk disk{bench, "conformance"};
  const auto fail_with = [&](const std::string& what) { failed(std::string{type.name}.c_str(), __FILE__, __LINE__, what); };

  const Ref<Object> sample = make_object(type);
  for (const auto& p : sample->property_list()) {
    if (p.name.empty() || p.type.empty()) fail_with("a property without name or type");
    if (!p.field) continue;
    if (p.field->doc.empty()) fail_with(format("property '{}' has no doc", p.name));
    if (p.field->get && p.field->set && !p.field->options.read_only && p.field->type->name != "link") {
      const Value value = OK(sample->get(p.name));
      if (value.is_null()) continue;
      if (auto set = sample->set(p.name, value); !set)
        fail_with(format("property '{}' refuses its own default: {}", p.name, set.error().message));
    }
  }

  hw::DeviceSpec spec = sample_spec(type);
  if (const auto rom = sample->get("romfile"); rom && rom->is_string() && !rom->get_string().empty())
    if (!bench.machine().find_firmware(rom->get_string())) {
      std::printf("note: %s is walked without its ROM: no %s on this host\n", std::string{type.name}.c_str(), rom->get_string().c_str());
      spec.properties.set("romfile", "");
    }
  auto made = hw::create_device(bench.machine(), spec);
  if (!made) fail_with(made.error().message);
  const Ref<hw::Device> device = std::move(*made);
  if (device->path().empty()) fail_with("is not in the tree");
  device->reset_tree();
  const Value state = device->save();
  for (const auto& [name, value] : state.members()) {  // damaged streams are refused or taken, never worse
    Value broken = state;
    broken.erase(name);
    (void)device->load(broken);
    for (const Value& odd : {Value{}, Value{-1}, Value{~u64{0}}, Value{"x"}, Value::list(), Value::object()}) {
      broken = state;
      broken.set(name, odd);
      (void)device->load(broken);
    }
  }
  device->reset_tree();
  if (auto loaded = device->load(state); !loaded) fail_with("load: " + loaded.error().message);
  device->settle();
  if (const Value again = device->save(); !(again == state)) fail_with(format("saves {} and then {}", to_json(state), to_json(again)));
  if (hw::describe_qtree(bench.machine()).empty()) fail_with("no qtree");
  device->describe();

  std::array<u64, 6> bars{};
  if (const auto* pci = dynamic_cast<hw::PciDevice*>(device.get())) {
    for (unsigned at = 0; at < 256; at += 4)  // any configuration
      for (const u32 value : {~u32{0}, u32{0}, bench.config_read(pci->devfn() >> 3, static_cast<u16>(at), 4)})
        bench.config_write(pci->devfn() >> 3, static_cast<u16>(at), 4, value);
    bars = bench.place_bars(pci->devfn() >> 3);
  }
  for (const u64 bar : bars)
    for (u64 at = bar; bar >= 0x10000 && at < bar + 0x1000; at += 4)
      for (const unsigned size : {1u, 2u, 4u, 8u}) {
        bench.machine().memory().load(GuestPhys{at}, size);
        for (const u64 value : {u64{0}, ~u64{0}}) bench.machine().memory().store(GuestPhys{at}, size, value);
      }
  // Every port and register that it mapped, read and written: nothing may crash.
  for (u32 port = 0; port < 0x10000; port++) {
    if (!bench.machine().ports().view()->find(port)) continue;
    for (const unsigned size : {1u, 2u, 4u}) {
      bench.machine().ports().load(GuestPhys{port}, size);
      for (const u64 value : {u64{0}, u64{0x5a}, ~u64{0}}) bench.machine().ports().store(GuestPhys{port}, size, value);
    }
  }
  bench.advance(10ms);
  hammer(bench, bars);
  // What it has come to is kept, to the last field.
  const Value driven = device->save();
  device->reset_tree();
  if (auto loaded = device->load(driven); !loaded) fail_with("load after use: " + loaded.error().message);
  device->settle();
  if (const Value again = device->save(); !(again == driven))
    for (const auto& [name, value] : driven.members())
      if (const Value* now = again.find(name); !now || !(*now == value))
        fail_with(format("after use, '{}' is saved as {} and then as {}", name, to_json(value).substr(0, 300),
                         now ? to_json(*now).substr(0, 300) : "nothing"));
  device->reset_tree();
  bool gone = false;
  device->detach().start([&](Result<> done) { gone = done.has_value(); });
  if (!gone || device->realized() || device->parent()) fail_with("did not leave");
  if (!bench.isa().devices().empty()) fail_with("is still on its bus");
}

}  // namespace

TEST(every_device_type_conforms) {
  unsigned walked = 0;
  for (const TypeInfo* type : all_types()) {
    if (!stands_on_bench(*type)) continue;
    walk(*type);
    walked++;
  }
  CHECK(walked >= 10);
}

}  // namespace vmm::test
