// CPUs of the PC boards: those of the start, and those that come and go later. Source of texts: QEMU 7.2, observed.
#include <algorithm>

#include "hw/acpi/cpu_hotplug.h"
#include "hw/acpi/tables.h"
#include "hw/core/cpu_plug.h"
#include "hw/machine/pc_board.h"
#include "src/base/bits.h"
#include "src/x86/model.h"

namespace vmm::hw {

namespace {

struct Place {
  std::optional<u64> socket, die, core, thread;
};

x86::Topology shape(const vm::Topology& t) { return {t.sockets, t.dies, t.cores, t.threads}; }

// Nothing of the machine's CPUs runs meanwhile.
template <class F>
void while_parked(vm::Machine& machine, F work) {
  const bool running = machine.run_state().running();
  if (running) {
    for (const auto& v : machine.vcpus()) v->request_stop();
    for (const auto& v : machine.vcpus()) v->wait_stopped();
  }
  work();
  if (running)
    for (const auto& v : machine.vcpus()) v->resume();
}

}  // namespace

Result<> PcBoard::make_cpus() {
  TRY(make_vcpus("qemu64"));
  for (const auto& vcpu : vcpus_) {
    Ref<Apic> apic = make_object<Apic>();
    (vcpu->object() ? *vcpu->object() : unattached()).add_child(vcpu->object() ? "lapic" : "device[*]", apic);
    apic->wire(*vcpu, fabric_, vcpu->index() == 0);
    TRY(apic->attach(nullptr));
  }
  return {};
}

vm::Vcpu* PcBoard::cpu_at(unsigned index) const {
  const auto at = std::ranges::find(vcpus_, index, [](const auto& v) { return v->index(); });
  return at == vcpus_.end() ? nullptr : at->get();
}

// --- Tables

Result<> PcBoard::add_cpu_hotplug(u16 port, AcpiPm& pm) {
  cpu_hotplug_ = add<AcpiCpuHotplug>();
  const auto object = [this](unsigned i) {
    vm::Vcpu* v = cpu_at(i);
    return v ? v->object() : nullptr;
  };
  cpu_hotplug_->wire(port_root_, port, pm,
                     {.count = config.smp.max_cpus,
                      .present = [this](unsigned i) { return cpu_at(i) != nullptr; },
                      .apic_id = [this](unsigned i) { return shape(config.smp).apic_id(i); },
                      .id =
                          [this, object](unsigned i) {
                            Object* o = object(i);
                            return o && o->parent() == &peripheral() ? o->name() : std::string{};
                          },
                      .path =
                          [object](unsigned i) {
                            Object* o = object(i);
                            return o ? o->path() : std::string{};
                          },
                      .eject = [this](unsigned i) {  // the guest's CPU is in here; the one that leaves may be it
                        main_loop().post([this, hold = Ref<PcBoard>{this}, i] { remove_cpu(i); });
                      }});
  return cpu_hotplug_->attach(nullptr);
}

void PcBoard::describe_cpus(AcpiInput& in) const {
  in.apic_ids.clear(), in.absent_cpus.clear();
  const unsigned count = cpu_hotplug_ ? config.smp.max_cpus : config.smp.cpus;
  for (unsigned i = 0; i < count; i++) {
    in.apic_ids.push_back(shape(config.smp).apic_id(i));
    in.absent_cpus.push_back(!cpu_at(i));
  }
  in.cpu_hotplug_port = cpu_hotplug_ ? cpu_hotplug_->port() : 0;
}

u32 PcBoard::cpu_id_limit() const {
  u32 limit = 1;
  for (unsigned i = 0; i < config.smp.max_cpus; i++) limit = std::max(limit, shape(config.smp).apic_id(i) + 1);
  return limit;
}

// How many the firmware is to wait for at the next start.
void PcBoard::count_cpus() {
  rtc_->set_cmos(0x5f, static_cast<u8>(std::min<usize>(vcpus_.size() - 1, 255)));
  fw_cfg_->add_u16(fw_cfg_key::nb_cpus, static_cast<u16>(vcpus_.size()));
}

// --- Coming

Result<> PcBoard::plug_cpu(const TypeInfo& type, const std::string& id, const Value& properties) {
  const TypeInfo& own = vcpus_.front()->object()->type_info();
  if (&type != &own) return fail("Invalid CPU type, expected cpu type: '{}'", own.name);
  if (!cpu_hotplug_) return fail("CPU hot plug needs ACPI: this machine has acpi=off");
  Place place;
  if (properties.is_object())
    for (const auto& [name, value] : properties.members()) {
      std::optional<u64>* to = name == "socket-id"   ? &place.socket
                               : name == "die-id"    ? &place.die
                               : name == "core-id"   ? &place.core
                               : name == "thread-id" ? &place.thread
                                                     : nullptr;
      if (name == "node-id" || name == "cluster-id") continue;
      if (!to)
        return std::unexpected(Error{format("Property '{}.{}' not found", type.name, name)}.with_hint(
            "A CPU that is plugged takes id, socket-id, die-id, core-id, thread-id; its features are those of -cpu"));
      *to = TRY(codec_detail::parse_unsigned(value, name, "uint32", {}, UINT32_MAX));
    }
  const vm::Topology& t = config.smp;
  if (t.dies == 1 && !place.die) place.die = 0;
  const auto check = [](std::string_view what, const std::optional<u64>& given, unsigned count) -> Result<u64> {
    if (!given)
      return std::unexpected(
          Error{format("CPU {}-id is not set", what)}.with_hint("query-hotpluggable-cpus lists the places that there are"));
    if (*given >= count) return fail("Invalid CPU {}-id: {} must be in range 0:{}", what, *given, count - 1);
    return *given;
  };
  const u64 socket = TRY(check("socket", place.socket, t.sockets)), die = TRY(check("die", place.die, t.dies));
  const u64 core = TRY(check("core", place.core, t.cores)), thread = TRY(check("thread", place.thread, t.threads));
  const auto index = static_cast<unsigned>(((socket * t.dies + die) * t.cores + core) * t.threads + thread);
  if (index >= t.max_cpus) return fail("there is no CPU {}: -smp says maxcpus={}", index, t.max_cpus);
  if (cpu_at(index)) return fail("CPU[{}] with APIC ID {} exists", index, shape(t).apic_id(index));
  return add_cpu(index, id);
}

Result<> PcBoard::add_cpu(unsigned index, const std::string& id) {
  // One that has left comes back: engines keep what they know of it.
  AwayCpu away;
  if (const auto at = std::ranges::find(away_, index, [](const AwayCpu& a) { return a.vcpu->index(); }); at != away_.end()) {
    away = std::move(*at);
    away_.erase(at);
  }
  vm::NewCpu cpu = TRY(vm::make_cpu(*this, index, *cpu_model_, std::move(away.vcpu)));
  vm::Vcpu* const v = cpu.vcpu.get();
  if (id.empty())
    peripheral_anon().add_child("device[*]", cpu.object);
  else
    peripheral().add_child(id, cpu.object);
  const Ref<Apic> apic = away.apic ? away.apic : make_object<Apic>();
  cpu.object->add_child("lapic", apic);
  v->set_smm_memory(*smm_space_);
  bool failed = false;
  Result<> done;
  const bool hot = finished_;
  if (hot) cpu.object->set_hotplugged();
  while_parked(*this, [&] {
    if (!away.apic) apic->wire(*v, fabric_, false);
    done = apic->attach(nullptr);
    if (done && hot) done = v->start();
    failed = !done;
    if (failed) return;
    if (hot) {
      v->run([this, v] {
        v->drop_events();
        x86::reset(v->state(), false, false);
        v->state().a20 = a20_.on();
        v->state().gpr[x86::rdx] = x86::cpuid(v->model(), {.leaf = 1}).eax;
      });
      v->post(vm::Request::flush);
    }
    vcpus_.insert(std::ranges::upper_bound(vcpus_, index, {}, [](const auto& x) { return x->index(); }), std::move(cpu.vcpu));
  });
  if (failed) {
    cpu.object->parent()->remove_child(*cpu.object);
    return done;
  }
  if (!hot) return {};
  count_cpus();
  cpu_hotplug_->plugged(index);
  return {};
}

// --- Leaving

Result<> PcBoard::ask_cpu_to_leave(vm::X86Cpu& cpu) {
  if (!cpu.vcpu()) return fail("this CPU has left already");
  if (cpu.vcpu()->index() == 0) return fail("Boot CPU is unpluggable");
  if (!cpu_hotplug_) return fail("CPU hot unplug not supported without ACPI");
  return cpu_hotplug_->ask_to_leave(cpu.vcpu()->index());
}

void PcBoard::remove_cpu(unsigned index) {
  vm::Vcpu* const v = cpu_at(index);
  if (!v || index == 0) return;
  const Ref<Object> object{v->object()};
  AwayCpu away;
  while_parked(*this, [&] {
    const auto at = std::ranges::find(vcpus_, v, [](const auto& x) { return x.get(); });
    away.vcpu = std::move(*at);
    vcpus_.erase(at);
    away.apic = Ref<Apic>{object_cast<Apic>(object->child("lapic"))};
    if (away.apic) away.apic->detach().start({});
  });
  const std::string path = object->path(), id = object->parent() == &peripheral() ? object->name() : std::string{};
  vm::unbind_cpu(*away.vcpu);
  object->parent()->remove_child(*object);
  away_.push_back(std::move(away));
  count_cpus();
  tell_device_deleted(id, path);
}

}  // namespace vmm::hw
