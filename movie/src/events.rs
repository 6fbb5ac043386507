//! Turns placements and cancellations in the log into commands, a batch at a time.

use prometheus::{IntCounterVec, Opts, Registry};
use service_kit::messaging::{Delivery, EventHandler, Fault};
use shared_events::Event;
use sqlx::PgConnection;

use crate::movie::{Command, Input};
use crate::unit_of_work::UnitOfWork;

#[derive(Clone)]
pub struct MovieMetrics {
    decisions: IntCounterVec,
}

impl MovieMetrics {
    /// # Errors
    /// If the metric's name is taken.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let decisions = IntCounterVec::new(
            Opts::new("movie_decisions_total", "Decisions about reservations, by the event that tells them"),
            &["event"],
        )?;
        registry.register(Box::new(decisions.clone()))?;
        Ok(Self { decisions })
    }
}

pub struct Handler {
    pub unit_of_work: UnitOfWork,
    pub metrics: MovieMetrics,
}

impl EventHandler for Handler {
    type Effects = Vec<&'static str>;

    async fn apply(
        &self,
        connection: &mut PgConnection,
        deliveries: &[&Delivery],
    ) -> Result<Self::Effects, Fault> {
        let inputs: Vec<Input> = deliveries.iter().filter_map(|delivery| input(delivery)).collect();
        if inputs.is_empty() {
            return Ok(Vec::new());
        }
        let writes = self.unit_of_work.execute_in(connection, &inputs).await?;
        Ok(writes.events.iter().map(|(event, _)| event.event_type()).collect())
    }

    fn committed(&self, events: Self::Effects) {
        for event in events {
            self.metrics.decisions.with_label_values(&[event]).inc();
        }
    }
}

/// The command of an event; `None` if the event doesn't concern the stock.
pub fn input(delivery: &Delivery) -> Option<Input> {
    let command = match &delivery.event {
        Event::ReservationPlaced(placed) => Command::Allocate {
            movie_id: placed.movie_id,
            reservation_id: placed.reservation_id,
            count: placed.count,
        },
        Event::ReservationCancelled(cancelled) => Command::Release {
            movie_id: cancelled.movie_id,
            reservation_id: cancelled.reservation_id,
            count: cancelled.count,
        },
        // The tickets were allocated already.
        Event::ReservationConfirmed(_) => return None,
        // This service's own events, which belong to the other topic.
        Event::MoviePublished(_)
        | Event::MovieUpdated(_)
        | Event::TicketsAdded(_)
        | Event::TicketsAllocated(_)
        | Event::AllocationRejected(_)
        | Event::TicketsReleased(_) => return None,
    };
    Some(Input { command, origin: delivery.origin() })
}
