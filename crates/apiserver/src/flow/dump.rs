//! `/debug/api_priority_and_fairness/*`: tables of what runs and what waits.

use std::fmt::Write;

use http::{HeaderValue, Response, StatusCode};

use super::gate::Flow;
use super::level::Level;
use crate::http::{Body, text_response};

/// Answers a path; `None` for paths that have no table.
pub(crate) fn respond(flow: &Flow, path: &str) -> Option<Response<Body>> {
    let table = match path.strip_prefix("/debug/api_priority_and_fairness/")? {
        "dump_priority_levels" => levels(flow),
        "dump_queues" => queues(flow),
        "dump_requests" => requests(flow),
        _ => return None,
    };
    let mut response = text_response(StatusCode::OK, table.ok()?);
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    Some(response)
}

/// The levels by name.
fn each(
    flow: &Flow,
    mut line: impl FnMut(&Level) -> Result<(), std::fmt::Error>,
) -> Result<(), std::fmt::Error> {
    let state = flow.state.lock();
    let mut levels: Vec<&Level> = state.levels.levels.values().collect();
    levels.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
    levels.into_iter().try_for_each(&mut line)
}

fn levels(flow: &Flow) -> Result<String, std::fmt::Error> {
    let mut out =
        "PriorityLevelName, ActiveQueues, IsIdle, IsQuiescing, WaitingRequests, ExecutingRequests, \
                   DispatchedRequests, RejectedRequests, TimedoutRequests, CancelledRequests\n"
            .to_owned();
    each(flow, |level| {
        let active = level.queues.iter().filter(|q| !q.waiting.is_empty()).count();
        let waiting: usize = level.queues.iter().map(|q| q.waiting.len()).sum();
        let idle = waiting == 0 && level.requests == 0;
        writeln!(
            out,
            "{}, {active}, {idle}, false, {waiting}, {}, {}, {}, {}, 0",
            level.spec.name, level.requests, level.dispatched, level.rejected, level.timed_out
        )
    })?;
    Ok(out)
}

fn queues(flow: &Flow) -> Result<String, std::fmt::Error> {
    let mut out = "PriorityLevelName, Index, PendingRequests, ExecutingRequests, SeatsInUse, NextDispatchR, \
                   InitialSeatsSum, MaxSeatsSum, TotalWorkSum\n"
        .to_owned();
    each(flow, |level| {
        for (at, queue) in level.queues.iter().enumerate() {
            let seats: u64 = queue.waiting.iter().map(|w| w.seats).sum();
            writeln!(
                out,
                "{}, {at}, {}, , , {}, {seats}, {seats}, {seats}",
                level.spec.name,
                queue.waiting.len(),
                queue.served
            )?;
        }
        Ok(())
    })?;
    Ok(out)
}

fn requests(flow: &Flow) -> Result<String, std::fmt::Error> {
    let mut out = "PriorityLevelName, FlowSchemaName, QueueIndex, RequestIndexInQueue, FlowDistingsher, \
                   ArriveTime, InitialSeats, FinalSeats, AdditionalLatency, StartTime\n"
        .to_owned();
    each(flow, |level| {
        for (at, queue) in level.queues.iter().enumerate() {
            for (index, request) in queue.waiting.iter().enumerate() {
                writeln!(
                    out,
                    "{}, {}, {at}, {index}, {}, , {}, 0, 0s, ",
                    level.spec.name, request.schema, request.flow, request.seats
                )?;
            }
        }
        Ok(())
    })?;
    Ok(out)
}
