#include "accel/kvm/irqchip.h"

#include <sys/ioctl.h>

#include <cerrno>
#include <chrono>
#include <cstring>

#include "accel/kvm/vcpu.h"
#include "src/base/bits.h"
#include "src/base/log.h"
#include "src/x86/msr.h"

namespace vmm::kvm {
namespace {

constexpr unsigned pins = 24;
static_assert(sizeof(kvm_lapic_state) == 64 * 16);

void complain(std::string_view what) { report_error(format("KVM: {}: {}", what, std::strerror(errno))); }

kvm_irq_routing_entry to_chip(u32 gsi, u32 chip, u32 pin) {
  kvm_irq_routing_entry e{};
  e.gsi = gsi, e.type = KVM_IRQ_ROUTING_IRQCHIP;
  e.u.irqchip.irqchip = chip, e.u.irqchip.pin = pin;
  return e;
}
kvm_irq_routing_entry to_message(u32 gsi, u64 address, u32 data) {
  kvm_irq_routing_entry e{};
  e.gsi = gsi, e.type = KVM_IRQ_ROUTING_MSI;
  e.u.msi.address_lo = static_cast<u32>(address), e.u.msi.address_hi = static_cast<u32>(address >> 32), e.u.msi.data = data;
  return e;
}

i64 host_nanoseconds() { return std::chrono::steady_clock::now().time_since_epoch().count(); }

}  // namespace

Result<std::unique_ptr<KvmIrqchip>> KvmIrqchip::make(int vm, IrqchipForm form) {
  std::unique_ptr<KvmIrqchip> made{new KvmIrqchip{vm, form == IrqchipForm::on}};
  if (made->full_) {
    if (::ioctl(vm, KVM_CREATE_IRQCHIP, 0) < 0) return fail("KVM makes no interrupt controllers: {}", std::strerror(errno));
  } else {
    const kvm_enable_cap split{.cap = KVM_CAP_SPLIT_IRQCHIP, .flags = 0, .args = {pins}, .pad = {}};
    if (::ioctl(vm, KVM_ENABLE_CAP, &split) < 0) return fail("KVM makes no local interrupt controllers: {}", std::strerror(errno));
  }
  const Lock lock{made->mutex_};
  // The kernel's own wiring has the PIT on pin 0 of the I/O APIC; a PC has it on pin 2.
  if (made->full_)
    for (u32 gsi = 0; gsi < pins; gsi++) {
      auto& to = made->routes_[gsi];
      if (gsi < 16 && gsi != 2) to.push_back(to_chip(gsi, gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, gsi % 8));
      if (gsi != 2) to.push_back(to_chip(gsi, KVM_IRQCHIP_IOAPIC, gsi == 0 ? 2 : gsi));
    }
  TRY(made->put_routes());
  return made;
}

Result<> KvmIrqchip::put_routes() {
  // The kernel's structure ends in a flexible array.
  std::vector<kvm_irq_routing_entry> all;
  for (const auto& [gsi, entries] : routes_) all.insert(all.end(), entries.begin(), entries.end());
  std::vector<u64> table((8 + all.size() * sizeof(kvm_irq_routing_entry)) / 8);
  table[0] = all.size();  // how many, and no flags
  if (!all.empty()) std::memcpy(&table[1], all.data(), all.size() * sizeof(kvm_irq_routing_entry));
  if (::ioctl(vm_, set_gsi_routing, table.data()) < 0) return fail("KVM refuses the routes of interrupts: {}", std::strerror(errno));
  return {};
}

void KvmIrqchip::send(u64 address, u32 data) {
  kvm_msi message{};
  message.address_lo = static_cast<u32>(address), message.address_hi = static_cast<u32>(address >> 32), message.data = data;
  // Below 0: nobody is there who takes it (a masked APIC), which the sender is not told on a PC either.
  static_cast<void>(::ioctl(vm_, KVM_SIGNAL_MSI, &message));
}

void KvmIrqchip::set_pin(unsigned pin, u64 address, u32 data) {
  const Lock lock{mutex_};
  const kvm_irq_routing_entry entry = to_message(pin, address, data);
  auto& now = routes_[pin];
  // Each change of the table waits for all readers in the kernel: only what is new is told.
  if (now.size() == 1 && std::memcmp(&now[0], &entry, sizeof entry) == 0) return;
  now.assign(1, entry);
  if (auto done = put_routes(); !done) report_error(done.error().message);
}

vm::LocalApicImage KvmIrqchip::local_apic(vm::Vcpu& vcpu) {
  vm::LocalApicImage image;
  auto& v = static_cast<KvmVcpu&>(vcpu);
  v.run_quietly([&] { v.cpu().get_local_apic(image); });
  return image;
}

void KvmIrqchip::set_local_apic(vm::Vcpu& vcpu, const vm::LocalApicImage& image) {
  auto& v = static_cast<KvmVcpu&>(vcpu);
  v.run_quietly([&] { v.cpu().put_local_apic(image); });
}

void KvmIrqchip::set_line(unsigned gsi, bool level) {
  kvm_irq_level line{};
  line.irq = gsi, line.level = level;
  if (::ioctl(vm_, KVM_IRQ_LINE, &line) < 0) complain("a line cannot be set");
}

vm::PicImage KvmIrqchip::pic(unsigned chip) {
  kvm_irqchip c{};
  c.chip_id = chip ? KVM_IRQCHIP_PIC_SLAVE : KVM_IRQCHIP_PIC_MASTER;
  if (::ioctl(vm_, KVM_GET_IRQCHIP, &c) < 0) complain("the PIC cannot be read");
  const kvm_pic_state& k = c.chip.pic;
  vm::PicImage i;
  i.last_irr = k.last_irr, i.irr = k.irr, i.imr = k.imr, i.isr = k.isr, i.priority_add = k.priority_add & 7, i.irq_base = k.irq_base;
  i.init_state = std::min<u8>(k.init_state, 3), i.elcr = k.elcr, i.elcr_mask = k.elcr_mask;
  i.read_reg_select = k.read_reg_select, i.poll = k.poll, i.special_mask = k.special_mask, i.auto_eoi = k.auto_eoi;
  i.rotate_on_auto_eoi = k.rotate_on_auto_eoi, i.special_fully_nested_mode = k.special_fully_nested_mode, i.init4 = k.init4;
  return i;
}

void KvmIrqchip::set_pic(unsigned chip, const vm::PicImage& i) {
  kvm_irqchip c{};
  c.chip_id = chip ? KVM_IRQCHIP_PIC_SLAVE : KVM_IRQCHIP_PIC_MASTER;
  kvm_pic_state& k = c.chip.pic;
  k.last_irr = i.last_irr, k.irr = i.irr, k.imr = i.imr, k.isr = i.isr, k.priority_add = i.priority_add, k.irq_base = i.irq_base;
  k.init_state = i.init_state, k.elcr = i.elcr, k.elcr_mask = i.elcr_mask;
  k.read_reg_select = i.read_reg_select, k.poll = i.poll, k.special_mask = i.special_mask, k.auto_eoi = i.auto_eoi;
  k.rotate_on_auto_eoi = i.rotate_on_auto_eoi, k.special_fully_nested_mode = i.special_fully_nested_mode, k.init4 = i.init4;
  if (::ioctl(vm_, KVM_SET_IRQCHIP, &c) < 0) complain("the PIC cannot be set");
}

vm::IoApicImage KvmIrqchip::io_apic() {
  kvm_irqchip c{};
  c.chip_id = KVM_IRQCHIP_IOAPIC;
  if (::ioctl(vm_, KVM_GET_IRQCHIP, &c) < 0) complain("the I/O APIC cannot be read");
  const kvm_ioapic_state& k = c.chip.ioapic;
  vm::IoApicImage i{.id = k.id, .select = k.ioregsel, .irr = k.irr};
  for (unsigned n = 0; n < pins; n++) i.redirection[n] = k.redirtbl[n].bits;
  return i;
}

void KvmIrqchip::set_io_apic(const vm::IoApicImage& i) {
  kvm_irqchip c{};
  c.chip_id = KVM_IRQCHIP_IOAPIC;
  kvm_ioapic_state& k = c.chip.ioapic;
  k.base_address = 0xfec0'0000, k.id = i.id, k.ioregsel = i.select, k.irr = i.irr;
  for (unsigned n = 0; n < pins; n++) k.redirtbl[n].bits = i.redirection[n];
  if (::ioctl(vm_, KVM_SET_IRQCHIP, &c) < 0) complain("the I/O APIC cannot be set");
}

Result<> KvmIrqchip::begin_pit(bool reinject) {
  const kvm_pit_config config{.flags = KVM_PIT_SPEAKER_DUMMY, .pad = {}};
  if (::ioctl(vm_, KVM_CREATE_PIT2, &config) < 0) return fail("KVM makes no interval timer: {}", std::strerror(errno));
  has_pit_ = true;
  kvm_reinject_control control{};
  control.pit_reinject = reinject;
  // As it is by itself where this cannot be said.
  static_cast<void>(::ioctl(vm_, KVM_REINJECT_CONTROL, &control));
  return {};
}

vm::PitImage KvmIrqchip::pit() {
  vm::PitImage image;
  if (!has_pit_) return image;
  kvm_pit_state2 s{};
  if (::ioctl(vm_, KVM_GET_PIT2, &s) < 0) return complain("the interval timer cannot be read"), image;
  const i64 now = host_nanoseconds();
  for (unsigned n = 0; n < 3; n++) {
    const kvm_pit_channel_state& k = s.channels[n];
    image.channel[n] = {.count = std::clamp<u32>(k.count, 1, 0x10000),
                        .latched_count = k.latched_count,
                        .count_latched = std::min<u8>(k.count_latched, 3),
                        .status_latched = k.status_latched,
                        .status = k.status,
                        .read_state = k.read_state,
                        .write_state = k.write_state,
                        .write_latch = k.write_latch,
                        .rw_mode = k.rw_mode,
                        .mode = k.mode,
                        .bcd = k.bcd,
                        .gate = k.gate,
                        .ran_ns = std::max<i64>(0, now - k.count_load_time)};
  }
  image.hpet_legacy = s.flags & KVM_PIT_FLAGS_HPET_LEGACY;
  return image;
}

void KvmIrqchip::set_pit(const vm::PitImage& image) {
  if (!has_pit_) return;
  kvm_pit_state2 s{};
  const i64 now = host_nanoseconds();
  for (unsigned n = 0; n < 3; n++) {
    const vm::PitImage::Channel& c = image.channel[n];
    kvm_pit_channel_state& k = s.channels[n];
    k.count = c.count, k.latched_count = c.latched_count, k.count_latched = c.count_latched, k.status_latched = c.status_latched;
    k.status = c.status, k.read_state = c.read_state, k.write_state = c.write_state, k.write_latch = c.write_latch;
    k.rw_mode = c.rw_mode, k.mode = c.mode, k.bcd = c.bcd, k.gate = c.gate;
    k.count_load_time = now - c.ran_ns;
  }
  s.flags = image.hpet_legacy ? KVM_PIT_FLAGS_HPET_LEGACY : 0;
  if (::ioctl(vm_, KVM_SET_PIT2, &s) < 0) complain("the interval timer cannot be set");
}

// ---- the local APIC of one CPU; on its thread, or while that stands still

void KvmCpu::get_local_apic(vm::LocalApicImage& image) {
  kvm_lapic_state page;
  if (::ioctl(fd_.get(), KVM_GET_LAPIC, &page) < 0) return complain("a local APIC cannot be read");
  for (usize n = 0; n < image.reg.size(); n++) image.reg[n] = load_le<u32>(reinterpret_cast<const u8*>(page.regs) + 16 * n);
  MsrTable list{.count = accelerator_.has_msr(vmm::x86::msr_tsc_deadline) ? 2u : 1u};
  list.entry[0].index = vmm::x86::msr_apic_base, list.entry[1].index = vmm::x86::msr_tsc_deadline;
  if (::ioctl(fd_.get(), get_msrs_request, &list) != static_cast<int>(list.count)) return complain("a local APIC's MSRs cannot be read");
  image.base = list.entry[0].data, image.tsc_deadline = list.entry[1].data;
  if (deadline_due_) image.tsc_deadline = *deadline_due_;
}

void KvmCpu::put_local_apic(const vm::LocalApicImage& image) {
  MsrTable list{.count = 1};
  list.entry[0].index = vmm::x86::msr_apic_base, list.entry[0].data = image.base;
  if (::ioctl(fd_.get(), set_msrs_request, &list) != 1) complain("IA32_APIC_BASE is refused");
  run_->apic_base = apic_base_ = image.base;
  kvm_lapic_state page{};
  for (usize n = 0; n < image.reg.size(); n++) store_le<u32>(reinterpret_cast<u8*>(page.regs) + 16 * n, image.reg[n]);
  if (::ioctl(fd_.get(), KVM_SET_LAPIC, &page) < 0) complain("a local APIC cannot be set");
  run_->cr8 = cr8_ = image.at(0x80) >> 4 & 15;
  deadline_due_ = image.tsc_deadline;  // once the counter is what it is compared with
}

}  // namespace vmm::kvm
